"""What lies behind a model's classifier: nothing, a selection of positions, or a change of the logits."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import suffice
from suffice.attach.behind import Behind, Watched
from suffice.attach.plain import as_exit_network
from tests.attach.tokens.test_masks import Decoder, texts


class Ending(nn.Module):
    """Model that applies `after(logits, x)` to the output of its classifier."""

    def __init__(self, after, outputs=4):
        super().__init__()
        self.after, self.body, self.fc = after, nn.Linear(8, 6), nn.Linear(6, outputs)

    def forward(self, x, **others):
        return self.after(self.fc(self.body(x).tanh()), x, **others)


@pytest.mark.parametrize(
    "after",
    [
        lambda z, x: z.masked_fill(x[:, :4] > 1e3, -1e4),
        lambda z, x: z.clamp(-1e3, 1e3),
        lambda z, x: z + 0 * x[:, :4],
        lambda z, x: torch.where(x[:, :4] < 1e3, z, -z),
        lambda z, x: z * (1.0 if x.shape[0] else 2.0),
        lambda z, x: z.round(decimals=30) if z.dtype == torch.float64 else z * 1,
    ],
    ids=["mask", "clamp", "add", "where", "scale", "times one"],
)
def test_a_change_that_the_example_does_not_show_is_refused_by_its_operation(after):
    model, x = Ending(after).eval(), torch.randn(4, 8)
    with pytest.raises(ValueError, match=r"the output of 'fc' \(6 → 4\) as the model's, got aten::\w+ behind it"):
        suffice.calibrate(model, [(x, torch.arange(4))], [(x, torch.arange(4))])
    with pytest.raises(ValueError, match="behind it"):
        suffice.attach_exits(model, "body", example=x)


def replaced(z, _):
    z.data = z.data.clamp(-1e3, 1e3)
    return z


def written(write):
    def after(z, x):
        write(z)
        return z.clone()

    return after


@pytest.mark.parametrize(
    ("after", "operation"),
    [
        (written(lambda z: z[:, 0].clamp_(max=1e3)), "clamp_"),
        (written(lambda z: z.data.clamp_(-1e3, 1e3)), "clamp_"),
        (written(lambda z: z.detach().view(-1)[::2].t().mul_(1)), "mul_"),
        (written(lambda z: z[:, 1:].masked_fill_(z[:, :1] > 1e3, -1e4)), "masked_fill_"),
        (written(lambda z: [row.clamp_(-1e3, 1e3) for row in z.unbind(0)]), "clamp_"),
        (written(lambda z: z.split(2, 1)[1].clamp_(-1e3, 1e3)), "clamp_"),
        (written(lambda z: torch._foreach_clamp_max_([z], 1e3)), "_foreach_clamp_max_"),
        (written(lambda z: torch._foreach_mul_(list(z.unbind(1)), 1.0)), "_foreach_mul_"),
        (written(lambda z: torch.clamp(z[:, 0], -1e3, 1e3, out=z[:, 0])), "clamp"),
        (written(lambda z: z.as_strided((4,), (1,)).mul_(1)), "mul_"),
        (replaced, "an assignment to .data"),
    ],
)
def test_a_write_through_a_view_or_a_list_is_refused_by_its_operation(after, operation):
    model, x = Ending(after).eval(), torch.randn(4, 8)
    with pytest.raises(ValueError, match=rf"got (aten::)?{operation} behind it"):
        as_exit_network(model, x)


def test_a_write_to_a_copy_is_not_one_to_the_logits():
    def after(z, _):
        copy = z.clone()
        copy[:, 0].mul_(0.5)
        z.softmax(1).mul_(2)
        return z

    model, x = Ending(after).eval(), torch.randn(4, 8)
    assert torch.equal(as_exit_network(model, x)(x)[0], model(x))


@pytest.mark.parametrize(
    "after",
    [
        lambda z, x: z,
        lambda z, x: z.contiguous().view(len(x), -1),
        lambda z, x: {"logits": z.clone().detach()}["logits"],
        lambda z, x: functional.dropout(z, 0.5, training=False),
        lambda z, x: z[:, None].squeeze(1),
    ],
)
def test_what_keeps_the_values_is_accepted(after):
    model, x = Ending(after).eval(), torch.randn(4, 8)
    assert torch.equal(as_exit_network(model, x)(x)[0], model(x))


@pytest.mark.parametrize("after", [lambda z, x: z[:, 0], lambda z, x: z[..., 0], lambda z, x: z.squeeze(-1)])
def test_the_only_column_is_no_selection(after):
    model, x = Ending(after, outputs=1).eval(), torch.randn(4, 8)
    assert torch.equal(as_exit_network(model, x)(x)[0].flatten(), model(x))


def test_a_hook_that_replaces_the_classifiers_input_is_refused_and_one_that_reads_it_is_not():
    model, x, seen = Ending(lambda z, x: z).eval(), torch.randn(4, 8), []
    model.fc.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    assert torch.equal(as_exit_network(model, x)(x)[0], model(x))
    model.fc.register_forward_pre_hook(lambda _, args: (functional.normalize(args[0]),))
    with pytest.raises(ValueError, match="not the output of 'fc'"):
        as_exit_network(model, x)


@torch.no_grad()
def test_positions_that_a_decoder_selects_are_those_of_its_features(tmp_path):
    torch.manual_seed(0)
    model, ids = Decoder().eval(), texts([7, 4, 5, 2] * 20, 7)
    network = as_exit_network(model, ids[:4])
    torch.testing.assert_close(network(ids)[0], model(ids))
    labels = model(ids).softmax(1).multinomial(1, generator=torch.Generator().manual_seed(0))[:, 0]
    calibrated = suffice.calibrate(model, [(ids, labels)], [(ids, labels)], temperature=False, link="plugin")
    torch.testing.assert_close(calibrated(ids)[0].probs, model(ids).softmax(1))
    suffice.save(calibrated, tmp_path / "c")
    again = suffice.load(tmp_path / "c", network=model)
    assert torch.equal(again(ids)[0].log_probs, calibrated(ids)[0].log_probs)


def test_a_selection_that_mixes_positions_is_refused():
    class Mean(Decoder):
        def forward(self, ids):
            return self.fc(self.encode(ids, ids != 0)).mean(1)

    with pytest.raises(ValueError, match=r"not the output of 'fc'"):
        as_exit_network(Mean().eval(), texts([7, 4, 5, 2], 7))


def test_operations_are_recorded_in_order():
    watched = Watched.of(torch.randn(3, 5, 2))
    assert Behind.of(watched) == Behind(False, None)
    assert Behind.of(watched[:, -1]) == Behind(True, None)
    assert Behind.of(watched[torch.arange(3), torch.tensor([4, 0, 1])].contiguous()) == Behind(True, None)
    assert Behind.of((watched[:, -1] + 1)[:2]) == Behind(True, "aten::add")
    assert Behind.of(watched.exp_().view(15, 2)) == Behind(True, "aten::exp_")
    assert Behind.of(torch.zeros(2)).changes == "an operation that returns new values"
