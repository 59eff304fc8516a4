"""Decisions of Python code in a pass: other inputs take their own branches, or are refused by name."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import suffice
from suffice.attach.attach import SameInputs

EXAMPLE = torch.zeros(4, 6, dtype=torch.long)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.a, self.fc = nn.Embedding(50, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, ids, **plain):
        return self.fc(self.pooled(self.a(self.embedding(ids)), ids, **plain).tanh())


class Condition(Base):
    def pooled(self, h, ids):
        return (h[:, :8] if ids.shape[1] > 8 else h).mean(1)


class Window(Base):
    def pooled(self, h, ids):
        return h[:, -min(ids.shape[1], 8) :].mean(1)


class Unbound(Base):
    def pooled(self, h, ids):
        return sum(h.unbind(1))


class Split(Base):
    def pooled(self, h, ids):
        return sum(chunk.mean(1) for chunk in h.split(4, 1))


class Length(Base):
    def pooled(self, h, ids):
        return h.sum(1) / len(h.transpose(0, 1).tanh().unbind(0))


class Flag(Base):
    def pooled(self, h, ids, double=False):
        return (h * 2 if double else h).mean(1)


class Plain(Base):
    def pooled(self, h, ids):
        batch, length, _ = h.shape
        if ids.dim() != 2 or h.shape[-1] != 8:
            raise ValueError
        return h.view(batch, length, 8).sum(1) / length


def ids(length):
    return torch.randint(50, (5, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", [Condition, Window, Unbound, Split, Length])
@pytest.mark.parametrize("length", [3, 6, 9, 24])
@torch.no_grad()
def test_other_lengths_take_their_own_branches(kind, length):
    model = kind().eval()
    network = suffice.attach_exits(model, "a", example=EXAMPLE)
    assert torch.equal(network(ids(length))[-1], model(ids(length)))


@torch.no_grad()
def test_another_flag_takes_its_own_branch():
    model = Flag().eval()
    network = suffice.attach_exits(model, "a", example={"ids": EXAMPLE, "double": True})
    for double in (True, False):
        assert torch.equal(network({"ids": ids(6), "double": double})[-1], model(ids(6), double=double))


@pytest.mark.parametrize(("kind", "length"), [(Condition, 9), (Window, 9), (Unbound, 9), (Unbound, 3), (Split, 9)])
@torch.no_grad()
def test_a_network_trained_as_a_whole_refuses_inputs_with_another_outcome_by_name(kind, length):
    model = kind().eval()
    network = suffice.attach_exits(model, "a", example=EXAMPLE, freeze=False)
    assert torch.equal(network(ids(6))[-1], model(ids(6)))
    with pytest.raises(ValueError, match=r"instead of .* attach the exits with an example like these inputs"):
        network(ids(length))


@torch.no_grad()
def test_decisions_that_hold_for_all_lengths_keep_the_trace():
    model = Plain().eval()
    network = suffice.attach_exits(model, "a", example=EXAMPLE)
    assert isinstance(network.stages[0].stage, SameInputs)
    assert torch.equal(network(ids(9))[-1], model(ids(9)))


@torch.no_grad()
def test_an_image_of_another_size_takes_its_own_branch():
    class Image(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.fc = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3), nn.Linear(4, 3)

        def forward(self, x):
            h = self.a(x).relu()
            if h.shape[-1] > 8:
                h = functional.interpolate(h, size=8)
            return self.fc(self.b(h).relu().mean((2, 3)))

    model, x = Image().eval(), torch.randn(3, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    network = suffice.attach_exits(model, "a", example=x[..., :8, :8])
    assert torch.equal(network(x)[-1], model(x))
