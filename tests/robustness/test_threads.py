"""Concurrent use of one model: every thread gets the results of a single thread, and the model stays unchanged."""

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
from tests.robustness import entries, odd

pytestmark = [
    pytest.mark.filterwarnings("ignore:.* inputs are outside"),
    pytest.mark.filterwarnings("ignore:.* ended at the edge of its range"),
]

THREADS, CALLERS, BATCHES = 8, 2, 6
ENTRIES = {name: entry for name, entry in entries.ENTRIES.items() if name != "audit"}  # an audit may hold NaN


def exits() -> ExitNetwork:
    """Return a network of two exits with dropout before each classifier."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stages = [nn.Sequential(nn.Linear(width, 8), nn.ReLU()) for width in (odd.INPUTS, 8)]
        return ExitNetwork(stages, [Exit(nn.Dropout(0.3), nn.Linear(8, odd.CLASSES)) for _ in stages]).eval()


def fields(answer):
    return answer.probs, answer.exit, answer.macs, answer.scores.nan_to_num()


def allocated(calibrated):
    return suffice.allocate(calibrated, entries.labeled(1), 0.8)


def run_function(calibrated):
    policy = allocated(calibrated)
    return lambda x: fields(suffice.run(calibrated, policy, x))


def stream_function(calibrated):
    policy = allocated(calibrated)
    return lambda x: [fields(item.answer) for item in suffice.run_stream(calibrated, policy, x.split(5), size=7)]


def functions_of(model):
    """Return functions of inputs that run the model, by name, with the fitted objects that they need."""
    prepared = {name: (prepare(model), run) for name, (prepare, run) in ENTRIES.items()}
    functions = {name: partial(run, model, fitted) for name, (fitted, run) in prepared.items()}
    if isinstance(model, ExitNetwork):
        calibrated = prepared["calibrated"][0]
        functions |= {"run": run_function(calibrated), "stream": stream_function(calibrated)}
    return functions


def same(result, expected):
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(tree_leaves(result), tree_leaves(expected), strict=True)
    )


class Workers:
    """Threads that run the functions of a model in random order, and threads that only call the model."""

    def __init__(self, model):
        self.model = model
        self.inputs = [entries.inputs(count=9 + seed, seed=10 + seed) for seed in range(BATCHES)]
        self.functions = functions_of(model)
        self.expected = {name: [run(x) for x in self.inputs] for name, run in self.functions.items()}
        self.outputs = [model(x) for x in self.inputs]
        self.modes = [module.training for module in model.modules()]
        self.callers = 0 if isinstance(model, odd.Caches) else CALLERS  # its own forward is not thread-safe

    def run_functions(self, seed, until):
        draw, count = random.Random(seed), 0
        while count == 0 or time.monotonic() < until:  # once at least, however late the thread starts
            name, i = draw.choice(list(self.functions)), draw.randrange(BATCHES)
            assert same(self.functions[name](self.inputs[i]), self.expected[name][i]), name
            count += 1
        return count

    def call_model(self, seed, until):
        draw, count = random.Random(seed), 0
        while count == 0 or time.monotonic() < until:
            i = draw.randrange(BATCHES)
            assert same(self.model(self.inputs[i]), self.outputs[i])
            assert [module.training for module in self.model.modules()] == self.modes
            assert not any(module._forward_hooks or module._forward_pre_hooks for module in self.model.modules())
            count += 1
        return count

    def run(self, seconds):
        """Run all threads for some seconds, and return the number of results of the functions."""
        until = time.monotonic() + seconds
        with ThreadPoolExecutor(THREADS + CALLERS) as pool:
            runs = [pool.submit(self.run_functions, seed, until) for seed in range(THREADS)]
            calls = [pool.submit(self.call_model, seed, until) for seed in range(self.callers)]
            counts = [future.result() for future in runs]
            assert all(future.result() for future in calls)
        return sum(counts)


@pytest.fixture
def _frequent_switches():
    """Let threads take turns a hundred times as often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 100)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(params=["sequential", "caches", "attends", "exits"])
def model(request):
    return exits() if request.param == "exits" else odd.build(request.param).eval()


@pytest.mark.usefixtures("_frequent_switches")
def test_concurrent_threads_do_not_affect_each_other(model, tried):
    workers = Workers(model)
    before = odd.snapshot(model)
    count = workers.run(seconds=1)
    assert count >= THREADS
    tried("answers of eight threads", count)
    assert odd.snapshot(model) == before


@pytest.mark.slow
@pytest.mark.usefixtures("_frequent_switches")
def test_concurrent_threads_do_not_affect_each_other_for_a_minute(model, tried):
    workers = Workers(model)
    before = odd.snapshot(model)
    tried("answers of eight threads", workers.run(seconds=60))
    assert odd.snapshot(model) == before
