"""Exits of token models leave out the tokens that the model's own pooling leaves out."""

import pytest
import torch
from torch import nn

import suffice
from suffice.attach.tokens.masks import TokenMask, WithMask, last_index
from tests.robustness.lookalikes import CLASSES, TextModel, built

T, WIDTH, PADDING = 7, 8, 0


class Tokens(nn.Module):
    """Token model whose layers mix valid tokens only; subclasses pool them and mark padding in different ways."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, WIDTH, padding_idx=PADDING)
        self.layer, self.fc = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)

    def encode(self, ids, valid):
        h = self.embed(ids)
        mean = (h * valid[..., None]).sum(1, keepdim=True) / valid.sum(1)[:, None, None].clamp_min(1)
        return self.layer(h + mean)

    def mean(self, h, valid):
        return self.fc(nn.Tanh()((h * valid[..., None]).sum(1) / valid.sum(1, keepdim=True)))

    def last(self, h, valid):
        return self.fc(nn.Tanh()(h[torch.arange(len(h)), valid.sum(1) - 1]))


class ByMask(Tokens):
    def forward(self, ids, attention_mask):
        valid = attention_mask.bool()
        return self.mean(self.encode(ids, valid), valid)


class ByComplement(Tokens):
    def forward(self, ids, padded):
        return self.mean(self.encode(ids, ~padded), ~padded)


class ByIds(Tokens):
    def forward(self, ids):
        return self.mean(self.encode(ids, ids != PADDING), ids != PADDING)


class ByLengths(Tokens):
    def forward(self, ids, lengths):
        valid = torch.arange(ids.shape[1]) < lengths[:, None]
        return self.last(self.encode(ids, valid), valid)


class Decoder(Tokens):
    """A head on every token, of which that of the last token is picked."""

    def forward(self, ids):
        valid = ids != PADDING
        logits = self.fc(self.encode(ids, valid))
        return logits[torch.arange(len(ids)), valid.sum(1) - 1]


class FirstToken(Tokens):
    def forward(self, ids, attention_mask):
        return self.fc(nn.Tanh()(self.encode(ids, attention_mask.bool())[:, 0]))


class Everything(Tokens):
    def forward(self, ids):
        return self.fc(nn.Tanh()(self.encode(ids, torch.ones_like(ids, dtype=torch.bool)).mean(1)))


KINDS = {
    ByMask: ("tokens", ("attention_mask", "true")),
    ByComplement: ("tokens", ("padded", "false")),
    ByIds: ("tokens", (None, "other")),
    ByLengths: ("last token", ("lengths", "length")),
    Decoder: ("last token", (None, "other")),
    FirstToken: ("class token", None),
    Everything: ("tokens", None),
}


def texts(lengths, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 20, (len(lengths), T), generator=generator)
    ids = torch.nn.functional.pad(ids, (0, max(0, width - T)))[:, :width]
    return torch.where(torch.arange(width) < torch.tensor(lengths)[:, None], ids, PADDING)


def inputs(kind, ids):
    valid = ids != PADDING
    others = {
        ByMask: {"attention_mask": valid.long()},
        FirstToken: {"attention_mask": valid.long()},
        ByComplement: {"padded": ~valid},
        ByLengths: {"lengths": valid.sum(1)},
    }
    return {"ids": ids, **others[kind]} if kind in others else ids


def attached(kind, lengths):
    torch.manual_seed(0)
    model = kind().eval()
    return model, suffice.attach_exits(model, "layer", example=inputs(kind, texts(lengths, T))).eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [[T, T, T, T], [T, 4, 5, 2]], ids=["an example without padding", "with padding"])
def test_pooling_and_mask_are_those_of_the_model(kind, lengths):
    _, network = attached(kind, lengths)
    pooling, mask = KINDS[kind]
    features = network.exit(0).features
    assert (features.pool if mask else features[1]).pooling == pooling
    found = next((module.mask for module in network.modules() if isinstance(module, WithMask)), None)
    assert (found and (found.key, found.kind)) == mask


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not Everything])
@pytest.mark.parametrize("example", [[T, T, T, T], [T, 4, 5, 2]])
@torch.no_grad()
def test_features_do_not_depend_on_padding_or_company(kind, example):
    model, network = attached(kind, example)
    lengths = [3, 5, 1, 4]
    ids = texts(lengths, 5, seed=1)

    def features(ids):
        state, first = network.advance(0, inputs(kind, ids))
        return first, network.advance(1, state)[1]

    for width in (5, 6, 12):
        padded = nn.functional.pad(ids, (0, width - 5))
        for got, expected in zip(features(padded), features(ids), strict=True):
            torch.testing.assert_close(got, expected)
        for row in range(4):
            for got, expected in zip(features(padded[row : row + 1, : lengths[row]]), features(ids), strict=True):
                torch.testing.assert_close(got[0], expected[row])
    x = inputs(kind, ids)
    expected = model(**x) if isinstance(x, dict) else model(x)
    torch.testing.assert_close(network(x)[-1], expected)


def test_an_optional_mask_that_is_missing_counts_all_tokens():
    mask = TokenMask("attention_mask", "true")
    assert mask({"ids": torch.zeros(2, 3)}, 3).all()


def test_the_last_token_is_the_last_that_counts_wherever_padding_is():
    counted = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]], dtype=torch.bool)
    assert last_index(counted).tolist() == [1, 3, 0]


def test_tokens_that_are_left_out_by_a_rule_that_no_input_states_are_refused_unless_a_pooling_is_given():
    class EverySecond(Tokens):
        def forward(self, ids):
            return self.fc(nn.Tanh()(self.encode(ids, ids >= 0)[:, ::2].mean(1)))

    model, ids = EverySecond().eval(), texts([T] * 4, T)
    with pytest.raises(
        ValueError, match=r"does not read the tokens \[1, 3, 5\] of example 0, which no input marks; pass"
    ):
        suffice.attach_exits(model, "layer", example=ids)
    network = suffice.attach_exits(model, "layer", example=ids, pooling="class token")
    assert torch.equal(network.eval()(ids)[-1], model(ids))


def test_a_mask_with_another_number_of_tokens_is_refused_at_the_exit():
    class EverySecond(nn.Module):
        def forward(self, h):
            return h[:, ::2]

    class Halved(ByMask):
        def __init__(self):
            super().__init__()
            self.halve = EverySecond()

        def forward(self, ids, attention_mask):
            h, valid = self.embed(ids), attention_mask.bool()
            return self.mean(self.layer(h + self.halve(h)[:, :1]), valid)

    model, ids = Halved().eval(), texts([T, 4, 5, 2], T)
    with pytest.raises(ValueError, match=r"one token at the exit for each in the mask, got \(2, 4\) and \(2, 7\)"):
        suffice.attach_exits(model, "halve", example=inputs(ByMask, ids))


def test_texts_of_a_model_with_a_trace_get_the_mask_too():
    model, x = built(TextModel)
    network = suffice.attach_exits(model, ["layers.0", "layers.1"], example=x).eval()
    longer = {name: nn.functional.pad(value, (0, 5)) for name, value in x.items()}
    with torch.no_grad():
        for got, expected in zip(network(longer), network(x), strict=True):
            torch.testing.assert_close(got, expected)


def test_outputs_of_convolutions_over_time_are_no_tokens():
    class Signal(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.deep, self.fc = nn.Conv1d(2, 5, 3), nn.Conv1d(5, 6, 3), nn.Linear(6, CLASSES)

        def forward(self, x):
            return self.fc(self.deep(self.conv(x).relu()).mean(2))

    model = Signal().eval()
    network = suffice.attach_exits(model, "conv", example=torch.randn(4, 2, 16)).eval()
    assert network.exit(0).classifier.in_features == 5
    assert network(torch.randn(3, 2, 20))[0].shape == (3, CLASSES)


def test_given_stages_of_a_model_that_leaves_out_padding_need_a_pooling():
    class First(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.embed = model.embed

        def forward(self, x):
            return {"h": self.embed(x["ids"]), "valid": x["attention_mask"].bool()}

    class Last(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.layer, self.fc = model.layer, model.fc

        def forward(self, state):
            h, valid = state["h"], state["valid"]
            mean = (h * valid[..., None]).sum(1, keepdim=True) / valid.sum(1)[:, None, None].clamp_min(1)
            h = self.layer(h + mean)
            return self.fc(nn.Tanh()((h * valid[..., None]).sum(1) / valid.sum(1, keepdim=True)))

    model = ByMask().eval()
    x = inputs(ByMask, texts([T, 4, 5, 2], T))
    with pytest.raises(ValueError, match=r"pooling=… for given stages of a model that leaves out padding by its input"):
        suffice.attach_exits(model, [First(model), Last(model)], example=x)
    network = suffice.attach_exits(model, [First(model), Last(model)], example=x, pooling="class token")
    with torch.no_grad():
        assert torch.equal(network.eval()(x)[-1], model(**x))
