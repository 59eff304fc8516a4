import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import bundles
from suffice_runtime.scheduling.options import Options
from suffice_runtime.serving.engine import Engine

CLOSE = 1e-5
"""Tolerance of probabilities in float32 that the runtime states; kernels round differently in other batch sizes."""

X = bundles.inputs(400)


@pytest.fixture
def started():
    """Return a function that starts an engine, which is closed after the test."""
    engines = []

    def start(runner, options=None, **terms):
        engines.append(Engine(runner, options, **terms))
        return engines[-1]

    yield start
    for engine in engines:
        assert engine.close(5)


def assert_same(outcome, answer):
    assert outcome.errors == ()
    assert outcome.answer.exit.tolist() == answer.exit.tolist()
    np.testing.assert_allclose(outcome.answer.probs, answer.probs, atol=CLOSE, rtol=0)
    np.testing.assert_allclose(outcome.answer.scores, answer.scores, atol=CLOSE, rtol=CLOSE)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("options", [Options(), Options(sizes=(4, 16), pad_batches=True)])
def test_requests_of_many_threads_have_the_answers_of_each_alone(started, opened, workers, options):
    runner = opened(**{**bundles.MIXED, "sets": bundles.SETS})
    engine = started(runner, options, workers=workers)
    parts = np.split(X, np.sort(np.random.default_rng(0).integers(0, 401, size=150)))
    with ThreadPoolExecutor(16) as pool:
        futures = list(pool.map(engine.submit, parts))
    for future, x in zip(futures, parts, strict=True):
        assert_same(future.result(5), runner.run(x))


def test_tasks_of_an_event_loop_are_answered(started, opened):
    engine = started(opened())
    expected = opened().run(X)

    async def ask():
        return await asyncio.gather(*(engine.answer(x[None]) for x in X))

    for i, outcome in enumerate(asyncio.run(ask())):
        assert outcome.answer.exit[0] == expected.exit[i]
