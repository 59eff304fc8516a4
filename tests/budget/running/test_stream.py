import itertools
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suffice import allocate, run, run_stream
from tests import builders

NET = builders.network()
X = builders.inputs(120)


def served(calibrated, policy, parts, **options):
    return list(run_stream(calibrated, policy, parts, **options))


@settings(deadline=None, max_examples=25)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=8),
    size=st.integers(1, 50),
    delay=st.integers(0, 5),
    nested=st.booleans(),
    ensemble=st.sampled_from(["average", "product", False]),
    score=st.sampled_from(["confidence", "patience"]),
)
def test_a_stream_gives_the_answers_of_each_batch_alone_in_order(sizes, size, delay, nested, ensemble, score):
    calibrated = builders.untuned(builders.network(nested=nested), X, ensemble=ensemble)
    policy = allocate(calibrated, [X], 0.6, score=score)
    parts = list(builders.inputs(sum(sizes), seed=1).split(sizes))
    answers = served(calibrated, policy, parts, size=size, delay=delay)
    assert len(answers) == len(parts)
    for part, got in zip(parts, answers, strict=True):
        assert got.errors == ()
        assert got.positions.tolist() == list(range(len(part)))
        if len(part):
            alone = run(calibrated, policy, part)
            assert torch.equal(got.answer.exit, alone.exit)
            assert torch.equal(got.answer.macs, alone.macs)
            torch.testing.assert_close(got.answer.probs, alone.probs, atol=1e-5, rtol=0)
            torch.testing.assert_close(got.answer.scores, alone.scores, atol=1e-4, rtol=1e-4, equal_nan=True)
        else:
            assert got.answer is None


@pytest.mark.parametrize(("delay", "most"), [(0, 0), (1, 1), (3, 3), (None, 8), (20, 11)])
def test_no_batch_waits_for_more_than_the_delay_and_a_large_pool_uses_all_of_it(delay, most):
    """The default is eight batches; there are twelve."""
    calibrated = builders.untuned(NET, X)
    policy = allocate(calibrated, [X], 0.6)
    read = []

    def source():
        for number, part in enumerate(X.split(10)):
            read.append(number)
            yield part

    options = {} if delay is None else {"delay": delay}
    stream = run_stream(calibrated, policy, source(), size=1000, **options)
    behind = [len(read) - 1 - number for number, _ in enumerate(stream)]
    assert behind[0] == max(behind) == most


def test_stages_run_full_while_the_stream_lasts():
    net = builders.network()
    calibrated = builders.untuned(net, X)
    policy = allocate(calibrated, [X], 0.6)
    batch_sizes = builders.watch_batch_sizes(net)
    stream = run_stream(calibrated, policy, X.split(10), size=16, delay=50)
    list(stream)
    by_stage = {k: [size for stage, size in batch_sizes if stage == k] for k in range(3)}
    assert by_stage[0] == [16] * 7 + [8]
    for sizes in by_stage.values():
        assert set(sizes[:-1]) == {16}


def test_the_last_batches_are_padded_to_a_bucket():
    net = builders.network()
    calibrated = builders.untuned(net, X)
    policy = allocate(calibrated, [X], 0.6)
    expected = run(calibrated, policy, X)
    batch_sizes = builders.watch_batch_sizes(net)
    answers = served(calibrated, policy, X.split(10), size=16, delay=2, buckets=(4, 8))
    assert {size for _, size in batch_sizes} <= {4, 8, 16}
    torch.testing.assert_close(torch.cat([got.answer.probs for got in answers]), expected.probs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("fail", [True, False])
def test_an_example_that_fails_is_named_and_the_stream_continues(stage, fail):
    """By an exception of the stage, or by logits that are not finite."""
    expected_net = builders.network()
    calibrated = builders.untuned(expected_net, X)
    policy = allocate(calibrated, [X], 1.0)
    expected = run(calibrated, policy, X)
    builders.poison(expected_net, X, 37, stage, fail)
    answers = served(calibrated, policy, X.split(10), size=16, delay=4)
    assert len(answers) == 12
    for number, got in enumerate(answers):
        positions = [p for p in range(10) if (number, p) != (3, 7)]
        assert got.positions.tolist() == positions
        torch.testing.assert_close(got.answer.probs, expected.probs[10 * number :][:10][positions], atol=1e-5, rtol=0)
    (error,) = answers[3].errors
    assert (error.stage, error.batch, error.position) == (stage, 3, 7)
    assert isinstance(error.__cause__, ArithmeticError if fail else ValueError)
    assert f"stage {stage} failed for example 7 of batch 3: " in str(error)
    assert sum(len(got.errors) for got in answers) == 1


def test_a_stage_that_always_fails_fails_for_all_and_the_stream_still_ends():
    net = builders.network()
    calibrated = builders.untuned(net, X)
    policy = allocate(calibrated, [X], 0.6)

    def broken(*_):
        raise MemoryError("out of memory")

    net.stages[0].register_forward_hook(broken)
    answers = served(calibrated, policy, X[:20].split(10), size=8)
    assert [got.answer for got in answers] == [None, None]
    assert [[error.position for error in got.errors] for got in answers] == [list(range(10))] * 2


def test_an_exception_of_the_stream_is_raised_after_the_batches_before_it():
    calibrated = builders.untuned(NET, X)
    policy = allocate(calibrated, [X], 0.6)

    def source():
        yield from X[:30].split(10)
        raise ConnectionError("the sender is gone")

    stream = run_stream(calibrated, policy, source(), size=64, delay=50)
    answers = list(itertools.islice(stream, 3))
    torch.testing.assert_close(
        torch.cat([got.answer.probs for got in answers]), run(calibrated, policy, X[:30]).probs, atol=1e-5, rtol=0
    )
    with pytest.raises(ConnectionError, match="the sender is gone"):
        next(stream)


def test_batches_are_forgotten_once_they_are_returned():
    calibrated = builders.untuned(NET, X)
    policy = allocate(calibrated, [X], 0.6)
    alive = weakref.WeakSet()

    def source():
        for _ in range(50):
            x = X[:10].clone()
            alive.add(x)
            yield x

    for _ in run_stream(calibrated, policy, source(), size=16, delay=3):
        assert len(alive) <= 6


def test_an_empty_stream_has_no_answers():
    calibrated = builders.untuned(NET, X)
    assert served(calibrated, allocate(calibrated, [X], 0.6), []) == []


def test_gradients_are_on_again_between_answers():
    calibrated = builders.untuned(NET, X)
    for _ in run_stream(calibrated, allocate(calibrated, [X], 0.6), X.split(50)):
        assert torch.is_grad_enabled()


def test_a_policy_of_another_network_and_sizes_out_of_range_are_refused_at_the_call():
    calibrated, other = builders.untuned(NET, X), builders.untuned(builders.network(seed=1), X)
    with pytest.raises(ValueError, match="policy for this calibrated network"):
        run_stream(calibrated, allocate(other, [X], 0.6), [X])
    policy = allocate(calibrated, [X], 0.6)
    for options, expected in (({"size": 0}, "size of at least 1"), ({"delay": -1}, "delay of at least 0")):
        with pytest.raises(ValueError, match=f"expected {expected}, got"):
            run_stream(calibrated, policy, [X], **options)


def test_a_changed_network_ends_the_stream_and_is_not_an_error_of_its_examples():
    net = builders.network()
    calibrated = builders.untuned(net, X)
    stream = run_stream(calibrated, allocate(calibrated, [X], 0.6), X.split(10), size=16, delay=0)
    assert next(stream).errors == ()
    with torch.no_grad():
        net.exits[1].classifier.bias += 1
    with pytest.raises(ValueError, match="weights have the hash"):
        list(stream)
