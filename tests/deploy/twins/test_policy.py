"""Thresholds, prediction sets and running thresholds of the runtime are those of the library."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import suffice
import suffice_runtime
from suffice.budget import drift
from suffice_runtime import drift as runtime_drift
from tests.deploy.twins import pairs

threshold = st.one_of(st.sampled_from([-math.inf, math.inf, 0.5]), st.floats(-3, 3))
seeds = st.integers(0, 2**32 - 1)


@settings(deadline=None, max_examples=150)
@given(
    thresholds=st.lists(threshold, min_size=1, max_size=3),
    alternative=st.none() | st.lists(threshold, min_size=3, max_size=3),
    portion=st.sampled_from([0.0, 0.3, 1.0]),
    seed=seeds,
)
def test_the_same_examples_stop(thresholds, alternative, portion, seed):
    exits = len(thresholds) + 1
    mixed = (None, 0.0) if alternative is None else (alternative[: exits - 1], portion)
    theirs, ours = pairs.policies(thresholds, [1 / exits] * exits, *mixed)
    generator = np.random.default_rng(seed)
    values = generator.choice([0.5, -3, 3, *thresholds, *generator.normal(size=9)], size=20)
    coin = generator.choice([0.3, *generator.random(9)], size=20)
    assert ours.needs_coin == theirs.needs_coin
    for k in range(exits - 1):
        expected = theirs.stops(k, torch.from_numpy(values), torch.from_numpy(coin))
        assert ours.stops(k, values, coin).tolist() == expected.tolist()


@settings(deadline=None, max_examples=150)
@given(
    method=st.sampled_from(["lac", "aps", "raps"]),
    thresholds=st.lists(st.floats(0, 1.3), min_size=2, max_size=2),
    randomized=st.booleans(),
    classes=st.integers(2, 8),
    ties=st.booleans(),
    seed=seeds,
)
def test_sets_of_labels_are_equal(method, thresholds, randomized, classes, ties, seed):
    generator = np.random.default_rng(seed)
    logits = 3 * generator.normal(size=(12, classes))
    log_probs = pairs.log_softmax(np.round(logits) if ties else logits)
    predictions = pairs.classifications(log_probs, np.zeros(12, dtype=np.float32))
    theirs, ours = pairs.rules(thresholds, method, randomized=randomized, penalty=0.05, unpenalized=1)
    exits, coin = generator.integers(0, 2, size=12), generator.random(12)
    expected = theirs.sets(predictions[0], torch.from_numpy(exits), torch.from_numpy(coin))
    found = ours.sets(predictions[1], exits, coin)
    # A cumulative sum of C probabilities in float64, each with the error of exp: below 4 C units of rounding.
    near = abs(ours._label_scores(log_probs, coin) - np.array(thresholds)[exits][:, None]) <= 4 * classes * 2.0**-52
    assert (found.members == expected.members.numpy())[~near].all()
    assert (found.coverage, repr(found)[:16]) == (expected.coverage, repr(expected)[:16])


@settings(deadline=None, max_examples=50)
@given(thresholds=st.lists(st.floats(0, 9) | st.just(math.inf), min_size=2, max_size=2), seed=seeds)
def test_intervals_are_equal(thresholds, seed):
    generator = np.random.default_rng(seed)
    fields = [generator.normal(size=(9, 2)).astype(np.float32), *generator.random((2, 9, 2), dtype=np.float32)]
    theirs, ours = pairs.rules(thresholds, "interval")
    exits = generator.integers(0, 2, size=9)
    expected = theirs.sets(suffice.Regression(*map(torch.from_numpy, fields)), torch.from_numpy(exits), None)
    found = ours.sets(suffice_runtime.Regression(*fields), exits, None)
    # A root, a product and a sum in float64, each within two units of rounding of terms below 3 + 9 √2 < 16.
    for name in ("low", "high", "size"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name).numpy(), rtol=0, atol=6 * 16 * 2.0**-53
        )


@settings(deadline=None, max_examples=60)
@given(
    window=st.integers(1, 40),
    some=st.floats(0, 1),
    ties=st.booleans(),
    sizes=st.lists(st.integers(0, 25), min_size=1, max_size=6),
    weights=st.lists(st.integers(0, 5), min_size=3, max_size=3).filter(any),
    seed=seeds,
)
def test_running_thresholds_are_equal(window, some, ties, sizes, weights, seed):
    shares = np.array(weights) / sum(weights)
    theirs, ours = pairs.policies([0.5, 0.25], shares.tolist())
    min_scores = max(1, round(some * window))
    trackers = drift.track(theirs, window, min_scores), runtime_drift.track(ours, window, min_scores)
    generator = np.random.default_rng(seed)
    for size in sizes:
        scores = generator.normal(size=(size, 2))
        scores = np.round(scores) if ties else scores
        exits = generator.integers(0, 3, size=size)
        scores[exits < 1, 1] = np.nan
        both = answers(scores, exits)
        trackers = trackers[0].update(both[0]), trackers[1].update(both[1])
        first, second = (tracker.policy for tracker in trackers)
        assert second.thresholds.tolist() == first.thresholds.tolist()
        assert second.needs_coin == first.needs_coin


def answers(scores, exits):
    """Return answers with scores (N, 2) in the library and in the runtime."""
    log_probs = np.zeros((len(exits), 2), dtype=np.float32)
    theirs, ours = pairs.classifications(log_probs, log_probs[:, 0])
    first = suffice.Answer(theirs, torch.from_numpy(exits), torch.from_numpy(exits), torch.from_numpy(scores))
    return first, suffice_runtime.Answer(ours, exits, (1, 2, 3), scores)
