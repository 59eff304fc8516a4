import numpy as np
import pytest

from suffice_runtime.monitor import LossAlarm, StepBack
from suffice_runtime.monitor.steps import share_of_step

BAD = np.ones(40)


def test_the_shares_of_alpha_sum_to_one_at_most():
    sums = np.cumsum([share_of_step(i) for i in range(1000)])
    np.testing.assert_allclose(sums, 1 - 1 / np.arange(2, 1002), rtol=1e-12)


def test_every_policy_is_watched_by_an_alarm_of_its_own():
    state = StepBack.start(3, 0.1, 0.2).update(BAD, step=0)
    first = LossAlarm.start(0.1, 0.2 / 2).update(BAD)
    second = LossAlarm.start(0.1, 0.2 / 6)
    assert state.step == 1
    assert state.alarms == (int(first.alarm),)
    assert state.watched.evidence.alpha == pytest.approx(second.evidence.alpha)
    assert state.watched.log_e == 0
    quiet = np.zeros(10)
    assert state.update(quiet, step=1).watched.log_e == second.update(quiet).log_e


def test_losses_of_a_policy_that_was_left_are_ignored():
    state = StepBack.start(3, 0.1, 0.2).update(BAD, step=0)
    late = state.update(BAD, step=0)
    assert late.step == 1
    assert late.watched.evidence.capital.count == 0


def test_the_last_policy_is_kept_after_its_alarm():
    state, losses = StepBack.start(2, 0.1, 0.2), np.arange(400) % 4 == 0
    for step in (0, 1):
        assert not state.exhausted
        state = state.update(losses, step=step)
    assert state.exhausted
    assert (state.step, len(state.alarms)) == (1, 2)
    assert state.alarms[1] > state.alarms[0]  # with a smaller share of α
    assert state.update(losses, step=1).alarms == state.alarms


def test_single_losses_give_what_a_batch_gives():
    x = (np.random.default_rng(0).random(200) < 0.4).astype(float)
    whole, single = StepBack.start(4, 0.1, 0.2).update(x, step=0), StepBack.start(4, 0.1, 0.2)
    for loss in x:
        single = single.update([loss], step=0)
    assert whole.alarms == single.alarms
    assert len(whole.alarms) == 1


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="expected policies of at least 1, got 0"):
        StepBack.start(0, 0.1, 0.05)
    state = StepBack.start(3, 0.1, 0.05)
    with pytest.raises(ValueError, match="expected the place of a policy that was in force, 0 to 0, got 1"):
        state.update([0.0], step=1)
