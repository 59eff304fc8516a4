import re
from dataclasses import replace

import numpy as np
import pytest

import bundles
from suffice_runtime import Runner, StageError
from watching import poison, watch

CLOSE = 1e-5
"""Tolerance of probabilities in float32 that the runtime states; kernels round differently in other batch sizes."""

X = bundles.inputs(100)
BATCHES = [X[:7], X[7:8], X[8:40], X[40:40], X[40:75], X[75:]]


def assert_same(served, answer):
    assert served.errors == ()
    assert served.positions.tolist() == list(range(len(answer)))
    assert served.answer.exit.tolist() == answer.exit.tolist()
    assert served.answer.macs.tolist() == answer.macs.tolist()
    np.testing.assert_allclose(served.answer.probs, answer.probs, atol=CLOSE, rtol=0)
    np.testing.assert_allclose(served.answer.scores, answer.scores, atol=CLOSE, rtol=CLOSE)


@pytest.mark.parametrize("size", [1, 3, 16, 1000])
@pytest.mark.parametrize("delay", [0, 1, 3, 100])
def test_a_stream_gives_the_answers_of_its_batches_in_order(runner, size, delay):
    served = list(runner.run_stream(iter(BATCHES), size=size, delay=delay))
    assert len(served) == len(BATCHES)
    for one, x in zip(served, BATCHES, strict=True):
        if len(x):
            assert_same(one, runner.run(x))
        else:
            assert one.answer is None
            assert len(one.positions) == 0


def test_graphs_run_on_full_batches(written):
    runner = Runner(written())
    sizes = watch(runner)
    exits = np.concatenate([one.answer.exit for one in runner.run_stream(np.split(X, 20), size=16, delay=100)])
    for k in range(3):
        ran = [size for stage, size in sizes if stage == k]
        assert sum(ran) == (exits >= k).sum()
        assert ran[:-1] == [16] * (len(ran) - 1)


def test_a_batch_is_answered_before_more_than_delay_later_ones_are_read(runner):
    read = 0

    def source():
        nonlocal read
        for x in np.split(X, 20):
            read += 1
            yield x

    for number, _ in enumerate(runner.run_stream(source(), size=64, delay=3)):
        assert read <= number + 1 + 3


def test_mixed_policies_and_sets_are_those_of_each_batch_alone(opened):
    runner = opened(**{**bundles.MIXED, "sets": bundles.SETS})
    for one, x in zip(runner.run_stream([X[:60], X[60:]], size=16), (X[:60], X[60:]), strict=True):
        alone = runner.run(x)
        assert_same(one, alone)
        assert (one.answer.set.members == alone.set.members).all()


def test_texts_of_different_lengths_wait_apart_and_cost_what_they_cost_alone(written):
    runner = Runner(written(tokens=True, thresholds=[-0.305, -0.345]))
    batches = [bundles.texts(n, tokens, seed=n) for n, tokens in ((6, 5), (9, 3), (4, 5), (8, 9), (7, 3))]
    alone = [runner.run(x) for x in batches]
    sizes = watch(runner)
    for one, answer in zip(runner.run_stream(batches, size=8, delay=4), alone, strict=True):
        assert_same(one, answer)
    assert (0, 8) in sizes  # rows of two batches of one length
    assert len({macs for answer in alone for macs in answer.macs}) > 3


def test_an_input_that_is_not_finite_fails_alone(runner):
    bad = X.copy()
    bad[50, 2] = np.nan
    served = list(runner.run_stream(np.split(bad, 4), size=16))
    (error,) = served[2].errors
    assert isinstance(error, StageError)
    assert (error.stage, error.batch, error.position) == (0, 2, 0)
    assert "NaN or infinity" in str(error.__cause__)
    assert served[2].positions.tolist() == list(range(1, 25))
    found = np.concatenate([one.answer.probs for one in served])
    np.testing.assert_allclose(found, runner.run(np.delete(bad, 50, axis=0)).probs, atol=CLOSE, rtol=0)


@pytest.mark.parametrize("what", ["failure", "predictions"])
def test_an_example_on_which_a_graph_fails_becomes_an_error_of_its_batch(written, what):
    runner = Runner(written())
    late = int((runner.run(X).exit == 1).nonzero()[0][9])
    poison(runner, np.tanh(X @ bundles.weights(0)[0])[late], k=1, what=what)
    served = list(runner.run_stream(np.split(X, 4), size=16, delay=2))
    errors = [error for one in served for error in one.errors]
    assert [(error.stage, error.batch, error.position) for error in errors] == [(1, late // 25, late % 25)]
    assert re.match(f"stage 1 failed for example {late % 25} of batch {late // 25}: ", str(errors[0]))
    assert sum(len(one.positions) for one in served) == 99


def test_an_error_of_the_source_comes_after_the_batches_before_it(runner):
    def source():
        yield X[:9]
        yield X[9:20]
        raise OSError("the disk is gone")

    stream = runner.run_stream(source(), size=64, delay=8)
    assert [len(next(stream).positions) for _ in range(2)] == [9, 11]
    with pytest.raises(OSError, match="the disk is gone"):
        next(stream)


def test_a_batch_of_another_type_is_refused_after_the_batches_before_it(runner):
    stream = runner.run_stream([X[:9], X[9:20].astype(np.float64), X[20:]], size=64)
    assert len(next(stream).positions) == 9
    with pytest.raises(TypeError, match="expected float32 for the input 'input', got float64"):
        next(stream)
    assert list(stream) == []


@pytest.mark.parametrize("batches", [X, {"input": X}, 3])
def test_a_single_batch_is_no_stream(runner, batches):
    with pytest.raises(TypeError, match=r"expected an iterable of batches, got \w+; pass one batch as \[x\]"):
        runner.run_stream(batches)


@pytest.mark.parametrize(
    ("choices", "error"),
    [({"size": 0}, ValueError), ({"delay": -1}, ValueError), ({"size": 2.0}, TypeError), ({"delay": None}, TypeError)],
)
def test_size_and_delay_are_whole_numbers(runner, choices, error):
    with pytest.raises(error, match=f"expected {next(iter(choices))}"):
        runner.run_stream([X], **choices)


def test_another_policy_can_be_given(runner):
    everything = replace(runner.policy, thresholds=np.array([-np.inf, 0.0]))
    (one,) = runner.run_stream([X], policy=everything)
    assert (one.answer.exit == 0).all()
    assert "100 at exit 0" in repr(one)
