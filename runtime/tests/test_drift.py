from dataclasses import replace

import numpy as np
import pytest

import bundles
from suffice_runtime import track
from suffice_runtime.drift import _quantile

X = bundles.inputs(600)


def test_thresholds_stay_those_of_the_policy_until_there_are_enough_scores(runner):
    tracker = track(runner.policy, window=100, min_scores=50)
    assert tracker.policy.thresholds.tolist() == runner.policy.thresholds.tolist()
    tracker = tracker.update(runner.run(X[:49], tracker.policy))
    assert tracker.policy.thresholds.tolist() == runner.policy.thresholds.tolist()
    tracker = tracker.update(runner.run(X[49:50], tracker.policy))
    assert tracker.policy.thresholds[0] != runner.policy.thresholds[0]


def test_running_thresholds_stop_the_shares_of_the_policy(runner):
    tracker = track(runner.policy, window=600)
    for start in range(0, 600, 100):
        answer = runner.run(X[start : start + 100], tracker.policy)
        tracker = tracker.update(answer)
    exits = runner.run(X, tracker.policy).exit
    # 0.25 of all stop at exit 0; of those that reach exit 1, which held other examples, 0.35/0.75.
    assert abs((exits == 0).mean() - 0.25) <= 1 / 600
    assert abs((exits == 1).sum() / (exits >= 1).sum() - 0.35 / 0.75) < 0.1


def test_only_the_last_scores_count(runner):
    tracker = track(runner.policy, window=60, min_scores=1)
    for start in (0, 40):
        tracker = tracker.update(runner.run(X[start : start + 40], tracker.policy))
    assert len(tracker.recent[0]) == 60
    scores = runner.run(X[20:80], replace(runner.policy, thresholds=np.array([np.inf, np.inf]))).scores[:, 0]
    np.testing.assert_allclose(tracker.recent[0], scores, rtol=1e-5, atol=1e-5)


def test_a_tracked_policy_is_never_mixed(opened):
    policy = track(opened(**bundles.MIXED).policy).policy
    assert policy.alternative is None
    assert policy.portion == 0
    assert not policy.needs_coin


@pytest.mark.parametrize(
    ("scores", "share", "expected"),
    [
        ([4.0, 3.0, 2.0, 1.0], 0.5, 2.5),
        ([1.0, 2.0, 3.0, 4.0], 0.25, 3.5),
        ([1.0, 2.0], 0.0, np.inf),
        ([1.0, 2.0], 1.0, -np.inf),
        ([3.0, 2.0, 2.0, 2.0, 1.0], 0.4, 2.5),  # equal scores stay together: 1 is nearer to 2 than 4
        ([3.0, 2.0, 2.0, 2.0, 1.0], 0.6, 1.5),
        ([2.0, 2.0, 2.0], 0.5, -np.inf),
        ([2.0, 2.0, 2.0], 0.3, np.inf),
    ],
)
def test_the_threshold_stops_the_nearest_number_of_scores(scores, share, expected):
    assert _quantile(np.array(scores), share) == expected


def test_scores_that_touch_have_a_threshold_that_separates_them():
    low, high = 1.0, np.nextafter(1.0, 2)
    threshold = _quantile(np.array([low, high]), 0.5)
    assert low < threshold <= high


def test_what_cannot_be_tracked_is_refused(opened, runner):
    with pytest.raises(TypeError, match=r"expected the policy of a bundle, got Runner; pass runner.policy"):
        track(runner)
    with pytest.raises(ValueError, match="expected 1 ≤ min_scores ≤ window, got min_scores=50 and window=10"):
        track(runner.policy, window=10)
    promised = opened(budget=None, promise={"loss": "accuracy", "max_loss": 0.02, "confidence": 0.9}).policy
    with pytest.raises(ValueError, match="expected a policy for a budget, got one with a guaranteed loss"):
        track(promised)
