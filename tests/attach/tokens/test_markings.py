"""Masks are found in any place of the inputs and in any usual form, from an example without padding."""

import pytest
import torch
from torch import nn

import suffice
from tests.attach.tokens.test_masks import T, Tokens, texts

N, MORE = 4, 5
IDS = texts([T] * N, T) % 18 + 1
ONES = torch.ones(N, T)


class ByRule(Tokens):
    """Model whose mask is made from its inputs by a function."""

    def __init__(self, rule):
        super().__init__()
        self.embed.padding_idx = None
        self.rule = rule

    def forward(self, x):
        ids, mark = x if isinstance(x, tuple) else (x["ids"], x["inner"]["mark"])
        valid = self.rule(ids, mark)
        return self.mean(self.encode(ids, valid), valid)


def long(tensor, value):
    return torch.cat([tensor, torch.full((*tensor.shape[:-1], MORE), value, dtype=tensor.dtype)], dim=-1)


def until(lengths, ids):
    return torch.arange(ids.shape[1]) < lengths[:, None]


LENGTHS = torch.full((N,), T)
FORMS = {
    "lengths": (lambda ids, m: until(m, ids), LENGTHS, LENGTHS, 0),
    "positions of the last token": (lambda ids, m: until(m + 1, ids), LENGTHS - 1, LENGTHS - 1, 0),
    "fractions": (lambda ids, m: until(m * ids.shape[1], ids), torch.ones(N), torch.ones(N) * T / (T + MORE), 0),
    "ones and zeros": (lambda ids, m: m > 0, ONES, long(ONES, 0), 0),
    "added to scores": (lambda ids, m: m > -1, 0 * ONES, long(0 * ONES, -1e9), 0),
    "segments": (lambda ids, m: m >= 0, 0 * IDS, long(0 * IDS, -1), 0),
    "of keys": (lambda ids, m: m[:, 0, 0] > 0, ONES[:, None, None], long(ONES, 0)[:, None, None], 0),
    "of keys, added": (lambda ids, m: m[:, 0, 0] > -1, 0 * ONES[:, None, None], long(0 * ONES, -1e9)[:, None, None], 0),
    "one column": (lambda ids, m: m[:, :, 0] > 0, ONES[..., None], long(ONES, 0)[..., None], 0),
    "an id in the code": (lambda ids, m: ids != 19, torch.zeros(N), torch.zeros(N), 19),
}


@pytest.mark.parametrize(
    "nest", [lambda ids, mark: (ids, mark), lambda ids, mark: {"ids": ids, "inner": {"mark": mark}}]
)
@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_padding_does_not_change_an_exit_whatever_marks_it_and_wherever(form, nest):
    rule, mark, longer, padding = FORMS[form]
    torch.manual_seed(0)
    model = ByRule(rule).eval()
    if isinstance(nest(IDS, mark), dict):
        call = model.forward
        model.forward = lambda ids, inner: call({"ids": ids, "inner": inner})
    network = suffice.attach_exits(model, "layer", example=nest(IDS, mark)).eval()
    _, expected = network.advance(0, nest(IDS, mark))
    _, got = network.advance(0, nest(long(IDS, padding), longer))
    torch.testing.assert_close(got, expected)


class Rows(nn.Module):
    def __init__(self, rule):
        super().__init__()
        self.layer, self.fc, self.rule = nn.Linear(6, 8), nn.Linear(8, 3), rule

    def forward(self, x):
        valid = self.rule(x)[..., None]
        h = self.layer(torch.where(valid, x, 0.0))
        return self.fc((h * valid).sum(1) / valid.sum(1))


@torch.no_grad()
def test_rows_of_zeros_are_left_out_if_the_model_leaves_them_out():
    x = torch.randn(N, T, 6)
    network = suffice.attach_exits(Rows(lambda x: x.abs().sum(2) > 0).eval(), "layer", example=x).eval()
    longer = torch.cat([x, torch.zeros(N, MORE, 6)], dim=1)
    torch.testing.assert_close(network.advance(0, longer)[1], network.advance(0, x)[1])


def test_a_threshold_below_which_rows_are_padding_is_refused():
    with pytest.raises(ValueError, match=r"rule of several values, .*-99.* pass pooling=…"):
        suffice.attach_exits(Rows(lambda x: x[..., 0] > -90).eval(), "layer", example=torch.randn(N, T, 6))
