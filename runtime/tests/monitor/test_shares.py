import numpy as np
import pytest

from monitor.streams import all_paths, chances
from suffice_runtime.monitor import LossAlarm, ShareAlarm

SHARES = [0.5, 0.3, 0.2]


def test_the_expected_e_values_over_every_path_are_at_most_one_within_the_tolerance():
    paths = all_paths(8)
    start = ShareAlarm.start([0.6, 0.4], tolerance=0.1, alpha=0.05)
    e_values = np.exp([start.update(path).evidence.log_e for path in paths.T])  # (256, 4)
    for mean, exact in [(0.3, [0, 3]), (0.5, [1, 2]), (0.4, [])]:  # of exit 1, whose share is 0.4 ± 0.1
        expected = chances(paths, mean + 0 * paths) @ e_values
        assert (expected <= 1 + 1e-12).all()
        assert np.flatnonzero(expected > 1 - 1e-12).tolist() == exact


def test_each_share_is_watched_as_a_loss_would_be():
    exits = np.random.default_rng(0).choice(3, 200, p=[0.2, 0.3, 0.5])
    state = ShareAlarm.start(SHARES, tolerance=0.05, alpha=0.05).update(exits)
    for k, share in enumerate(SHARES):
        more = LossAlarm.start(share + 0.05, 0.05 / 6).update(exits == k)
        less = LossAlarm.start(1 - share + 0.05, 0.05 / 6).update(exits != k)
        for place, alarm in ((k, more), (3 + k, less)):
            assert state.evidence.log_e[place] == pytest.approx(float(alarm.log_e), abs=1e-9)
            assert state.evidence.alarm[place] == alarm.alarm
    assert state.alarm == min(state.evidence.alarm[[2, 3]])
    assert state.count == 200


def test_shares_within_the_tolerance_raise_no_alarm_and_others_do():
    generator = np.random.default_rng(1)
    alarm = ShareAlarm.start(SHARES, tolerance=0.05, alpha=0.05)
    within = alarm.update(generator.choice(3, 3000, p=[0.46, 0.32, 0.22]))
    assert within.alarm == 0
    assert within.update(generator.choice(3, 1500, p=[0.35, 0.3, 0.35])).alarm > 3000


def test_an_exit_that_never_stopped_anything_may_be_watched():
    alarm = ShareAlarm.start([0.0, 1.0], tolerance=0.02, alpha=0.05)
    assert alarm.update(np.ones(500)).alarm == 0
    assert alarm.update(np.zeros(10)).alarm > 0


def test_numbers_outside_their_ranges_are_refused():
    with pytest.raises(ValueError, match=r"expected shares of K exits in \[0, 1\]"):
        ShareAlarm.start([0.5, -0.5], 0.05, 0.05)
    with pytest.raises(ValueError, match="expected tolerance between 0 and 1, got 0"):
        ShareAlarm.start(SHARES, 0, 0.05)
    with pytest.raises(ValueError, match="expected exits from 0 to 2, got values from 0 to 3"):
        ShareAlarm.start(SHARES, 0.05, 0.05).update([0, 3])
