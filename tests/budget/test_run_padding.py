"""Batches that keep finished examples, and batches that are padded to buckets."""

from dataclasses import replace

import pytest
import torch

from suffice import allocate, run
from tests import builders
from tests.budget.profiles import planted

NET = builders.network()
X = builders.inputs(50)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("score", ["confidence", "patience"])
@pytest.mark.parametrize("buckets", [None, (4, 16, 64), (7,), (256,)])
@pytest.mark.parametrize("copying", [0.0, 1e6])
def test_answers_do_not_depend_on_removing_finished_examples_or_on_padding(copying, buckets, score, nested):
    net = builders.network(nested=nested)
    calibrated = builders.untuned(net, X)
    policy = allocate(calibrated, [X], 0.6, score=score)
    plain = run(calibrated, policy, X)
    other = run(calibrated, replace(policy, profile=planted([1.0] * 3, copying=copying)), X, buckets=buckets)
    assert torch.equal(other.exit, plain.exit)
    torch.testing.assert_close(other.probs, plain.probs, atol=1e-5, rtol=0)
    torch.testing.assert_close(other.aleatoric, plain.aleatoric, atol=1e-5, rtol=0)
    torch.testing.assert_close(other.scores, plain.scores, atol=1e-4, rtol=1e-4, equal_nan=True)


def test_finished_examples_stay_where_removing_them_costs_more_than_it_saves():
    calibrated = builders.untuned(NET, X)
    policy = allocate(calibrated, [X], 0.6)
    for profile, removes in ((planted([1.0] * 3, copying=1e6), False), (planted([1.0] * 3), True)):
        batch_sizes = builders.watch_batch_sizes(NET)
        run(calibrated, replace(policy, profile=profile), X)
        for stage in NET.stages:
            stage._forward_pre_hooks.clear()
        assert (batch_sizes != [(k, 50) for k in range(3)]) == removes


@pytest.mark.parametrize("buckets", [(8, 32, 64), (64,), (1, 2, 4, 8, 16, 32, 64, 128)])
def test_a_stage_runs_on_the_shapes_of_the_buckets_only(buckets):
    net = builders.network()
    calibrated = builders.untuned(net, X)
    policy = allocate(calibrated, [X], 0.6)
    batch_sizes = builders.watch_batch_sizes(net)
    for part in (X, X[:1], X[:9], X[:33]):
        run(calibrated, policy, part, buckets=buckets)
    assert {size for _, size in batch_sizes} <= set(buckets)


@pytest.mark.slow
@pytest.mark.parametrize("buckets", [(8, 64), None])
def test_a_compiled_stage_is_compiled_once_for_each_bucket(buckets):
    net = builders.network()
    calibrated = builders.untuned(net, X)
    policy = allocate(calibrated, [X], 0.6)
    parts = [X, X[:1], X[:9], X[:33], X[10:50]]
    plain = [run(calibrated, policy, part) for part in parts]
    shapes = []

    def compiler(graph, inputs):
        shapes.append(tuple(inputs[-1].shape))
        return graph.forward

    torch.compiler.reset()
    for k, stage in enumerate(net.stages):
        net.stages[k] = torch.compile(stage, backend=compiler, dynamic=False)
    for part, expected in zip(parts, plain, strict=True):
        answer = run(calibrated, policy, part, buckets=buckets)
        assert torch.equal(answer.exit, expected.exit)
        torch.testing.assert_close(answer.probs, expected.probs, atol=1e-5, rtol=0)
    once_each = sorted((size, width) for width in (3, 6, 5) for size in (8, 64))
    if buckets is None:
        assert len(set(shapes)) > len(once_each)
    else:
        assert sorted(shapes) == once_each


def test_a_batch_larger_than_all_buckets_stays_as_it_is_until_it_fits():
    net = builders.network()
    calibrated = builders.untuned(net, X)
    policy = allocate(calibrated, [X], 0.6)
    batch_sizes = builders.watch_batch_sizes(net)
    exits = run(calibrated, policy, X, buckets=(20,)).exit
    reached = [int((exits >= k).sum()) for k in range(3)]
    assert batch_sizes == [(k, size if size > 20 else 20) for k, size in enumerate(reached)]


@pytest.mark.parametrize("copying", [0.0, 1e6])
@pytest.mark.parametrize("buckets", [None, (16, 64)])
def test_an_example_that_is_not_finite_is_named_by_its_position_in_the_original_batch(buckets, copying):
    calibrated = builders.untuned(builders.network(), X)
    policy = replace(allocate(calibrated, [X], 0.6), profile=planted([1.0] * 3, copying=copying))
    exits = run(calibrated, policy, X).exit
    position, reached = int((exits > 0).nonzero()[-1]), int((exits > 0).sum())
    builders.poison(calibrated.network, X, position)
    with pytest.raises(ValueError, match=rf"finite logits at exit 1, .* position {position} \(1 of {reached} "):
        run(calibrated, policy, X, buckets=buckets)


def test_a_finished_example_may_become_nan_behind_its_exit():
    """It stays in the batch because copying does not pay, and its later values are not checked."""
    net = builders.network()
    calibrated = builders.untuned(net, X)
    policy = replace(allocate(calibrated, [X], 0.6), profile=planted([1.0] * 3, copying=1e6))
    plain = run(calibrated, policy, X)
    builders.poison(net, X, int((plain.exit == 0).nonzero()[0]))
    again = run(calibrated, policy, X)
    torch.testing.assert_close(again.probs, plain.probs)
