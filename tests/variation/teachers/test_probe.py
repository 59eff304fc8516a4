"""Teachers compared with passes of the whole model in training mode: followed, or refused by name."""

import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from suffice.variation.baselines.delta_rule import delta_rule
from suffice.variation.teachers.dropout import MCDropout
from tests import tolerances

PASSES = 4000


class Model(nn.Module):
    """Regression with dropout, and something random besides."""

    def __init__(self, between) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.drop, self.last = nn.Linear(4, 8), nn.Dropout(0.1), nn.Linear(8, 1)
        self.between, self.path = between, nn.Identity()

    def forward(self, x):
        return self.last(self.drop(self.between(self, self.first(x).relu())))


class DropPath(nn.Module):
    """Stochastic depth as libraries write it."""

    def forward(self, x):
        return x * x.new_empty(len(x), 1).bernoulli_(0.7) / 0.7 if self.training else x


def in_place(m, h):
    functional.dropout(h, 0.3, m.training, inplace=True)
    return h


def in_place_of_a_view(m, h):
    torch.dropout_(h[:, :4], 0.3, m.training)
    return h


def channels_in_place(m, h):
    torch.feature_dropout_(h.view(len(h), 4, 2), 0.5, m.training)
    return h


def two_dimensional(m, h):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch warns of three dimensions
        return functional.dropout2d(h.view(len(h), 4, 2), 0.3, m.training).flatten(1)


with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)

    @torch.jit.script
    def scripted(h: torch.Tensor, training: bool):
        return torch.dropout(h, 0.4, training)


FOLLOWED = {
    "in place": in_place,
    "in place of a view": in_place_of_a_view,
    "in place, both read": lambda m, h: functional.dropout(h, 0.3, m.training, inplace=True) + h,
    "channels in place": channels_in_place,
    "one example by its dimensions": lambda m, h: functional.dropout1d(h, 0.3, m.training),
    "three dimensions": two_dimensional,
    "four dimensions": lambda m, h: functional.dropout3d(h.view(-1, 2, 2, 2), 0.3, m.training).flatten(1),
    "a rate of 0 beside another": lambda m, h: functional.dropout(
        functional.dropout(h, 0.0, m.training), 0.3, m.training
    ),
    "a threshold that nothing reaches": lambda m, h: 2 * h if m.training and float(torch.rand(())) < 0.0 else h,
}
REFUSED = {
    "bernoulli": lambda m, h: h * torch.bernoulli(torch.full((len(h), 1), 0.8)) if m.training else h,
    "rand in": lambda m, h: h * torch.floor(0.8 + torch.rand(len(h), 1)) if m.training else h,
    "randn_like": lambda m, h: h * (1 + 0.3 * torch.randn_like(h)) if m.training else h,
    "exponential_": lambda m, h: functional.gumbel_softmax(h) if m.training else h,
    "rrelu_with_noise": lambda m, h: functional.rrelu(h - 0.5, training=m.training),
    "randperm": lambda m, h: h[:, torch.randperm(8)] if m.training else h,
    "bernoulli_": lambda m, h: scripted(h, m.training),
    "Python's random": lambda m, h: h * random.random() if m.training else h,
    "numpy.random": lambda m, h: h * np.random.rand() if m.training else h,  # noqa: NPY002
}


def delta(model, x):
    return delta_rule(model, x, likelihood="regression")


def explicit(model, x):
    """Return the spread of the model in training mode."""
    model.train()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        outputs = model(x.repeat(PASSES, 1)).view(PASSES, len(x))  # every row has masks of its own
    model.eval()
    return outputs.double().std(dim=0)


@pytest.mark.parametrize("name", FOLLOWED)
def test_dropout_of_every_kind_varies_as_in_training_mode(name, generator):
    model, x = Model(FOLLOWED[name]).eval(), torch.randn(3, 4, generator=generator)
    before = x.clone()
    spread = MCDropout(passes=PASSES, likelihood="regression")(model, x, generator=generator)["std"]
    torch.testing.assert_close(spread, explicit(model, x), rtol=2 * tolerances.deviation(PASSES), atol=0)
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", REFUSED)
def test_other_randomness_in_training_mode_is_refused_by_its_name(name):
    model, x = Model(REFUSED[name]).eval(), torch.randn(3, 4)
    for measure in (
        MCDropout(passes=2, likelihood="regression"),
        lambda m, x: delta_rule(m, x, None, None, "regression"),
    ):
        with pytest.raises(ValueError, match=f"as the only randomness in training mode, got .*{name}") as refused:
            measure(model, x)
        elsewhere = name in ("Python's random", "numpy.random")  # no module draws, so that naming others does not help
        assert ("MCDropout(at=[…])" in str(refused.value)) is not elsewhere


def test_masks_of_ones_own_are_refused_with_their_module_unless_the_sites_are_named(generator):
    model, x = Model(lambda m, h: m.path(h)).eval(), torch.randn(3, 4)
    model.path = DropPath()
    with pytest.raises(ValueError, match="got random numbers from bernoulli_ in module 'path'"):
        MCDropout(passes=2, likelihood="regression")(model, x)
    spread = MCDropout(at="drop", passes=9, likelihood="regression")(model, x, generator=torch.Generator())["std"]
    model.path = nn.Identity()
    alone = MCDropout(passes=9, likelihood="regression")(model, x, generator=torch.Generator())["std"]
    assert torch.equal(spread, alone)


def test_a_named_site_that_draws_other_numbers_is_refused():
    model = Model(lambda m, h: functional.dropout(h * (torch.rand_like(h) if m.training else 1), 0.2, m.training))
    wrapped = nn.Sequential(model)
    with pytest.raises(ValueError, match="got random numbers from rand_like in module '0', whose variation"):
        MCDropout(at="0", passes=2, likelihood="regression")(wrapped, torch.randn(3, 4))


class Renamed(nn.Dropout):
    """Dropout with a mask of its own."""

    def forward(self, x):
        return x * torch.empty_like(x).bernoulli_(1 - self.p) / (1 - self.p) if self.training else x


def test_a_subclass_of_dropout_with_a_forward_of_its_own_is_not_taken_for_dropout():
    model = nn.Sequential(nn.Linear(4, 8), Renamed(0.3), nn.Dropout(0.1), nn.Linear(8, 1))
    with pytest.raises(ValueError, match="bernoulli_ in module '1'"):
        MCDropout(passes=2, likelihood="regression")(model, torch.randn(3, 4))


@pytest.mark.parametrize("at", [None, "drop"])
@pytest.mark.parametrize("name", ["dropout", "noise", "noise in evaluation mode"])
def test_a_model_that_is_random_in_evaluation_mode_is_refused(name, at):
    between = {
        "dropout": lambda m, h: functional.dropout(h, 0.3),
        "noise": lambda m, h: h + torch.randn_like(h),
        "noise in evaluation mode": lambda m, h: h if m.training else h + torch.randn_like(h),
    }[name]
    with pytest.raises(ValueError, match="expected a model that is deterministic in evaluation mode, got random"):
        MCDropout(at=at, passes=2, likelihood="regression")(Model(between), torch.randn(3, 4))


def test_inputs_are_not_written_into_by_dropout_in_place():
    model = nn.Sequential(nn.Dropout(0.5, inplace=True), nn.Linear(4, 1))
    x = torch.ones(3, 4)
    MCDropout(passes=4, likelihood="regression")(model, x)
    delta(model, x)
    assert torch.equal(x, torch.ones(3, 4))
    assert not x.requires_grad
    assert x._version == 0
