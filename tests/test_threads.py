"""Threads that look at one model at once: each gets the answer of the model alone, and nobody notices the others."""

import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch import nn

import suffice
from suffice.network import Exit, ExitNetwork
from suffice.utils.nest import tree_leaves
from tests import entries, odd

pytestmark = [
    pytest.mark.filterwarnings("ignore:.* inputs are far outside"),
    pytest.mark.filterwarnings("ignore:.* ended at the edge of its range"),
]

THREADS, BYSTANDERS, BATCHES = 8, 2, 6
ENTRIES = {name: entry for name, entry in entries.ENTRIES.items() if name != "audit"}  # an audit may hold NaN


def exits() -> ExitNetwork:
    """Two exits, dropout before each classifier."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stages = [nn.Sequential(nn.Linear(width, 8), nn.ReLU()) for width in (odd.INPUTS, 8)]
        return ExitNetwork(stages, [Exit(nn.Dropout(0.3), nn.Linear(8, odd.CLASSES)) for _ in stages]).eval()


def told(answer):
    return answer.probs, answer.exit, answer.macs, answer.scores.nan_to_num()


def policy_of(calibrated):
    return suffice.allocate(calibrated, entries.labeled(1), 0.8)


def ran(calibrated):
    chosen = policy_of(calibrated)
    return lambda x: told(suffice.run(calibrated, chosen, x))


def streamed(calibrated):
    chosen = policy_of(calibrated)
    return lambda x: [told(found.answer) for found in suffice.run_stream(calibrated, chosen, x.split(5), size=7)]


def ways(model):
    """Functions of inputs that look at the model, some of them with what was fitted to it."""
    prepared = {name: (prepare(model), look) for name, (prepare, look) in ENTRIES.items()}
    found = {name: partial(look, model, fitted) for name, (fitted, look) in prepared.items()}
    if isinstance(model, ExitNetwork):
        found |= {"run": ran(prepared["calibrated"][0]), "stream": streamed(prepared["calibrated"][0])}
    return found


def same(found, expected):
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(tree_leaves(found), tree_leaves(expected), strict=True)
    )


class Crowd:
    """Threads that look at a model, each in its own order, and bystanders that only call it."""

    def __init__(self, model):
        self.model = model
        self.inputs = [entries.inputs(count=9 + seed, seed=10 + seed) for seed in range(BATCHES)]
        self.ways = ways(model)
        self.right = {name: [way(x) for x in self.inputs] for name, way in self.ways.items()}
        self.alone = [model(x) for x in self.inputs]
        self.modes = [module.training for module in model.modules()]
        self.bystanders = 0 if isinstance(model, odd.Caches) else BYSTANDERS  # which no two threads can call

    def looks(self, seed, until):
        draw, count = random.Random(seed), 0
        while time.monotonic() < until:
            name, i = draw.choice(list(self.ways)), draw.randrange(BATCHES)
            assert same(self.ways[name](self.inputs[i]), self.right[name][i]), name
            count += 1
        return count

    def stands_by(self, seed, until):
        draw, count = random.Random(seed), 0
        while time.monotonic() < until:
            i = draw.randrange(BATCHES)
            assert same(self.model(self.inputs[i]), self.alone[i])
            assert [module.training for module in self.model.modules()] == self.modes
            assert not any(module._forward_hooks or module._forward_pre_hooks for module in self.model.modules())
            count += 1
        return count

    def meet(self, seconds):
        """Answers of all the threads together, after so many seconds."""
        until = time.monotonic() + seconds
        with ThreadPoolExecutor(THREADS + BYSTANDERS) as pool:
            looking = [pool.submit(self.looks, seed, until) for seed in range(THREADS)]
            standing = [pool.submit(self.stands_by, seed, until) for seed in range(self.bystanders)]
            counts = [future.result() for future in looking]
            assert all(future.result() for future in standing)
        return sum(counts)


@pytest.fixture
def _impatient():
    """Threads take turns a hundred times as often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 100)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(params=["sequential", "caches", "attends", "exits"])
def model(request):
    return exits() if request.param == "exits" else odd.made(request.param).eval()


@pytest.mark.usefixtures("_impatient")
def test_nobody_notices_the_others(model, tried):
    crowd = Crowd(model)
    before = odd.described(model)
    count = crowd.meet(seconds=1)
    assert count >= THREADS
    tried("answers of eight threads", count)
    assert odd.described(model) == before


@pytest.mark.slow
@pytest.mark.usefixtures("_impatient")
def test_nobody_notices_the_others_for_a_minute(model, tried):
    crowd = Crowd(model)
    before = odd.described(model)
    tried("answers of eight threads", crowd.meet(seconds=60))
    assert odd.described(model) == before
