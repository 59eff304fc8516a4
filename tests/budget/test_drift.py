import pytest
import torch

import suffice
from suffice import allocate, run
from suffice.budget import drift
from tests import builders

NET = builders.network(scale=3.0)
X = builders.inputs(2000)

CORRUPTIONS = {
    "noise": lambda x, g: x + 2.5 * torch.randn(x.shape, generator=g),
    "contrast": lambda x, g: 0.3 * x,
    "glare": lambda x, g: x + 2.0,
    "dropped sensor": lambda x, g: x * torch.tensor([0.0, 1.0, 1.0]),
    "gain": lambda x, g: 3 * x,
}


def calibrated_network():
    return builders.untuned(NET, X[:300])


def spent(calibrated, x, tracker):
    """Return the mean cost of a stream in batches of 50 under running thresholds, and the last state."""
    macs = []
    for part in x.split(50):
        answer = run(calibrated, tracker.policy, part)
        tracker = tracker.update(answer)
        macs.append(answer.macs)
    return float(torch.cat(macs).double().mean()), tracker


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_running_thresholds_keep_the_mean_cost_where_frozen_ones_drift(name, generator):
    calibrated = calibrated_network()
    policy = allocate(calibrated, builders.batched(X, size=200), 0.6)
    x = CORRUPTIONS[name](builders.inputs(6000, seed=5), generator)
    frozen = float(run(calibrated, policy, x).macs.double().mean())
    followed, _ = spent(calibrated, x, drift.track(policy, window=500))
    assert abs(frozen / policy.expected - 1) > 0.05
    assert abs(followed / policy.expected - 1) <= 0.03


def test_without_drift_the_cost_is_that_of_the_frozen_policy():
    calibrated = calibrated_network()
    policy = allocate(calibrated, builders.batched(X, size=200), 0.6)
    followed, tracker = spent(calibrated, builders.inputs(6000, seed=5), drift.track(policy))
    assert followed == pytest.approx(policy.expected, rel=0.02)
    torch.testing.assert_close(tracker.policy.thresholds, policy.thresholds, atol=0.5, rtol=0)


def test_thresholds_are_frozen_until_enough_scores_are_known():
    calibrated = calibrated_network()
    policy = allocate(calibrated, builders.batched(X, size=200), 0.6)
    tracker = drift.track(policy, window=100, min_scores=60)
    assert torch.equal(tracker.policy.thresholds, policy.thresholds)
    answer = run(calibrated, policy, 3 * X[:59])
    assert torch.equal(tracker.update(answer).policy.thresholds, policy.thresholds)
    more = tracker.update(run(calibrated, policy, 3 * X[:60]))
    assert more.policy.thresholds[0] != policy.thresholds[0]
    assert more.policy.thresholds[1] == policy.thresholds[1]


def test_the_window_holds_the_last_scores_of_those_that_reached_each_exit():
    calibrated = calibrated_network()
    policy = allocate(calibrated, builders.batched(X, size=200), 0.6)
    tracker, met = drift.track(policy, window=40, min_scores=10), [[], []]
    for part in X[:200].split(30):
        answer = run(calibrated, tracker.policy, part)
        tracker = tracker.update(answer)
        for k in range(2):
            met[k] += answer.scores[answer.exit >= k, k].tolist()
            assert tracker.recent[k].tolist() == met[k][-40:]


def test_an_update_does_not_change_the_state_before_it():
    calibrated = calibrated_network()
    policy = allocate(calibrated, [X], 0.6)
    before = drift.track(policy)
    before.update(run(calibrated, before.policy, X[:100]))
    assert [len(scores) for scores in before.recent] == [0, 0]
    assert torch.equal(before.policy.thresholds, policy.thresholds)


def test_exits_where_all_or_none_stop_stay_so():
    calibrated = calibrated_network()
    for budget, value in ((calibrated.costs.cumulative[0], -torch.inf), (calibrated.costs.cumulative[-1], torch.inf)):
        policy = allocate(calibrated, [X], budget, unit="macs")
        _, tracker = spent(calibrated, 3 * X, drift.track(policy))
        assert float(tracker.policy.thresholds[0]) == value


@pytest.mark.parametrize(("window", "min_scores"), [(10, 0), (10, 11), (0, 1)])
def test_windows_out_of_range_are_refused(window, min_scores):
    policy = allocate(calibrated_network(), [X], 0.6)
    with pytest.raises(ValueError, match=f"got min_scores={min_scores} and window={window}"):
        drift.track(policy, window, min_scores)


def test_a_policy_with_a_guaranteed_loss_is_refused():
    calibrated = calibrated_network()
    policy = suffice.control_risk(calibrated, builders.batched(X, calibrated(X)[-1].label, 200), 0.2)
    with pytest.raises(ValueError, match="got one with a guaranteed loss"):
        drift.track(policy)
