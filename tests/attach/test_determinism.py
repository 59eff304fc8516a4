import os
import random
import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from suffice.attach.determinism import check_deterministic

GENERATOR = np.random.default_rng(0)
ONCE = [True]


class Model(nn.Module):
    """Model with something between its layers."""

    def __init__(self, between) -> None:
        super().__init__()
        self.first, self.last, self.between = nn.Linear(4, 8), nn.Linear(8, 3), between
        self.own = random.Random(0)

    def forward(self, x):
        return self.last(self.between(self, self.first(x)))


def rarely(generator):
    """Return an event that next to no pass shows, from a generator that only this closure holds."""
    return lambda m, h: h * 0 if generator.random_sample() < 1e-6 else h


ALWAYS_ON = {
    "bernoulli_": lambda m, h: functional.dropout(h, 0.3),
    "randn_like": lambda m, h: h + 0.01 * torch.randn_like(h),
    "rand in": lambda m, h: h if float(torch.rand(())) < 0.999 else 2 * h,
    "Python's random": lambda m, h: h * random.random(),
    "numpy.random": lambda m, h: h * np.random.rand(),  # noqa: NPY002
    "a generator of type Random": lambda m, h: h * m.own.random(),
    "a generator of type Generator": lambda m, h: h * GENERATOR.random(),
    "a generator of type RandomState": rarely(np.random.RandomState(0)),
    "os.urandom": lambda m, h: h * 0 if os.urandom(2) == b"aa" else h,
    "rand": lambda m, h: h if abs(float(torch.rand(())) - 0.5) < 0.25 else 2 * h,
}
HARMLESS = {
    "dropout in training mode": lambda m, h: functional.dropout(h, 0.3, m.training),
    "a threshold that nothing reaches": lambda m, h: 2 * h if float(torch.rand(())) < 0.0 else h,
    "a mask that keeps everything": lambda m, h: h * torch.empty(len(h), 1).bernoulli_(1.0),
    "a number that is not used": lambda m, h: (torch.rand(3), h)[1],
    "a state": lambda m, h: setattr(m, "seen", getattr(m, "seen", 0) + 1) or h,
}


@pytest.mark.parametrize("name", ALWAYS_ON)
def test_a_random_output_in_evaluation_mode_is_refused_by_the_operation(name):
    with pytest.raises(ValueError, match=f"deterministic in evaluation mode, got random numbers from .*{name}"):
        check_deterministic(Model(ALWAYS_ON[name]), torch.randn(5, 4))


@pytest.mark.parametrize("name", HARMLESS)
def test_draws_without_an_effect_are_accepted(name):
    check_deterministic(Model(HARMLESS[name]), torch.randn(5, 4))


def test_the_module_that_draws_is_named():
    model = nn.Sequential(nn.Linear(4, 4), Model(ALWAYS_ON["randn_like"]))
    with pytest.raises(ValueError, match="from randn_like in module '1'; call functional dropout with training="):
        check_deterministic(model, torch.randn(5, 4))


def test_random_numbers_of_another_library_are_found_by_the_output():
    numbers = iter(np.random.default_rng(0).random(100).tolist())
    model = Model(lambda m, h, draw=numbers.__next__: h * draw())
    with pytest.raises(ValueError, match="same at each call, got two outputs for the same inputs"):
        check_deterministic(model, torch.randn(5, 4))


def test_a_check_leaves_modes_and_default_generators_as_they_are():
    model, state = Model(HARMLESS["a number that is not used"]).train(), torch.get_rng_state()
    own = model.own.getstate()
    check_deterministic(model, torch.randn(1, 4, generator=torch.Generator().manual_seed(0)))
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert model.own.getstate() == own


def test_draws_of_another_thread_in_one_pass_only_are_not_those_of_the_model():
    model = Model(lambda m, h: (ONCE and ONCE.pop() and GENERATOR.random(), h)[1])
    check_deterministic(model, torch.randn(5, 4))


def test_a_profiler_of_the_caller_stays():
    def profile(*_):
        return None

    sys.setprofile(profile)
    try:
        check_deterministic(Model(HARMLESS["a state"]), torch.randn(5, 4))
        assert sys.getprofile() is profile
    finally:
        sys.setprofile(None)


def test_draws_of_another_thread_are_not_those_of_the_model():
    stopped = threading.Event()

    def draw():
        own = random.Random(0)
        while not stopped.is_set():
            own.random()
            random.random()
            GENERATOR.random()

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        check_deterministic(nn.Linear(3, 3), torch.zeros(4, 3))
    finally:
        stopped.set()
        thread.join()
