import gc
import os
import random
import secrets
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from suffice.utils import draws as module
from suffice.utils.draws import Draw, Draws, ForeignDraws, generators, module_names, running_module

DRAWS = {
    "rand": lambda: torch.rand(5),
    "rand_like": lambda: torch.rand_like(torch.ones(5)),
    "uniform_": lambda: torch.empty(5).uniform_(2, 3),
    "bernoulli": lambda: torch.bernoulli(torch.full((5,), 0.5)),
    "bernoulli_": lambda: torch.empty(5).bernoulli_(0.5),
    "randn": lambda: torch.randn(5),
    "normal_": lambda: torch.empty(5).normal_(1, 2),
    "randint": lambda: torch.randint(3, 7, (5,)),
    "randperm": lambda: torch.randperm(5),
    "multinomial": lambda: torch.multinomial(torch.ones(5), 3),
    "exponential_": lambda: torch.empty(5).exponential_(),
    "rrelu_with_noise": lambda: functional.rrelu(torch.randn(1) - 9, training=True),
}


@pytest.mark.parametrize("name", DRAWS)
def test_every_operation_that_draws_is_seen_by_its_name(name):
    with Draws({}) as draws:
        DRAWS[name]()
    assert draws.seen[-1] == Draw(name, None)


def test_operations_that_draw_nothing_are_not_seen():
    x = torch.randn(2, 4, 8)
    with Draws({}) as draws:
        functional.dropout(x, 0.5, training=False)
        functional.rrelu(x, training=False)
        functional.scaled_dot_product_attention(x, x, x, dropout_p=0.0)
    assert draws.seen == []
    with Draws({}) as draws:
        functional.scaled_dot_product_attention(x, x, x, dropout_p=0.5)
    assert draws.seen


@pytest.mark.parametrize(
    ("name", "least", "greatest"),
    [
        ("rand", 0, 1),
        ("uniform_", 2, 3),
        ("bernoulli_", 0, 1),
        ("randint", 3, 6),
        ("randn", -8, 8),
        ("normal_", -15, 17),
    ],
)
def test_drawn_numbers_can_be_replaced_by_their_extremes(name, least, greatest):
    with Draws({}, "least") as draws:
        assert DRAWS[name]().float().unique().tolist() == [least]
    assert draws.replaceable
    with Draws({}, "greatest"):
        value = float(DRAWS[name]().float().unique())
    half_open = name in ("rand", "uniform_")
    assert value < greatest if half_open else value == greatest
    assert value == pytest.approx(greatest, abs=1e-6)


def test_extremes_of_a_certain_outcome_are_that_outcome():
    for extreme in ("least", "greatest"):
        with Draws({}, extreme):
            assert torch.empty(3).bernoulli_(1.0).tolist() == [1, 1, 1]
            assert torch.bernoulli(torch.zeros(3)).tolist() == [0, 0, 0]


def test_a_permutation_has_no_extremes():
    with Draws({}) as draws:
        torch.randperm(5)
    assert not draws.replaceable


class Inner(nn.Module):
    def forward(self, x):
        return x * torch.rand_like(x)


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Inner()

    def forward(self, x):
        return self.inner(x) + Inner()(x)  # the second one is no module of the model


def test_a_draw_is_named_by_the_innermost_module_of_the_model():
    model = Outer()
    with Draws(module_names(model)) as draws:
        model(torch.ones(2))
    assert [draw.module for draw in draws.seen] == ["inner", ""]
    assert [str(draw) for draw in draws.seen] == [
        "rand_like in module 'inner'",
        "rand_like in the forward of the model itself",
    ]
    assert running_module(module_names(model)) is None


class Holder:
    """Object without a dictionary that holds a generator."""

    __slots__ = ("generator",)


def test_generators_of_python_and_numpy_that_are_drawn_from_are_named_wherever_they_are_kept():
    holder = Holder()
    holder.generator, others = random.Random(0), [np.random.default_rng(0), np.random.RandomState(0)]
    with ForeignDraws() as draws:
        pass
    assert draws.seen == []
    with ForeignDraws() as draws:
        others[0].random()
    assert [draw.operation for draw in draws.seen] == ["a generator of type Generator"]
    with ForeignDraws() as draws:
        holder.generator.random()
        others[1].rand()
        random.random()
        np.random.rand()  # noqa: NPY002
    assert {draw.operation for draw in draws.seen} == {
        "a generator of type Random", "a generator of type RandomState", "Python's random", "numpy.random",
    }  # fmt: skip


@pytest.mark.parametrize("draw", [lambda: os.urandom(1), lambda: secrets.randbelow(3), random.SystemRandom().random])
def test_numbers_of_the_operating_system_are_seen(draw):
    with ForeignDraws() as draws:
        draw()
    assert draws.seen == [Draw("os.urandom", None)]


def test_a_generator_without_a_state_does_not_prevent_the_check():
    generator = random.SystemRandom()
    with ForeignDraws() as draws:
        pass
    assert draws.seen == []
    del generator


@pytest.mark.parametrize(
    "name", ["Generator", "RandomState", "MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64", "Random"]
)
def test_a_generator_that_another_thread_is_making_does_not_prevent_the_check(name):
    kind = getattr(np.random, name, random.Random)
    unfinished = kind.__new__(kind)
    with ForeignDraws() as draws:
        pass
    assert draws.seen == []
    assert any(source is unfinished for source in generators())


@pytest.mark.parametrize("generation", [None, 0, 1, 2])
def test_a_generator_is_found_whether_or_not_garbage_was_collected_since_the_last_search(generation):
    before = generators()
    made = [random.Random(0), np.random.default_rng(0), np.random.RandomState(0)]
    if generation is not None:
        gc.collect(generation)
    found = {id(source) for source in generators()}
    assert found >= {id(source) for source in (*made, *before)}
    assert len(found) == len(generators())


def test_a_generator_is_found_if_a_collection_runs_during_the_search(monkeypatch):
    generators()
    search = module._stateful

    def collect_before_the_second_generation(generation=None):
        if generation == 1:
            gc.collect(0)
            gc.collect(1)
        return search(generation)

    monkeypatch.setattr(module, "_stateful", collect_before_the_second_generation)
    made = random.Random(0)
    gc.collect(0)
    assert any(source is made for source in generators())


def test_a_search_for_generators_does_not_disturb_tuples_that_other_threads_fill():
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 100)
    stop = threading.Event()

    def fill():
        count = 0
        while not stop.is_set():
            assert tuple(i for i in range(50)) == tuple(range(50))
            count += 1
        return count

    try:
        with ThreadPoolExecutor(4) as pool:
            runs = [pool.submit(fill) for _ in range(4)]
            for _ in range(20):
                gc.collect(0)
                generators()
            stop.set()
            assert all(run.result() for run in runs)
    finally:
        stop.set()
        sys.setswitchinterval(before)
