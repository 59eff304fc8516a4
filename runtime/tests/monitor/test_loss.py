import math

import numpy as np
import pytest

from monitor.streams import all_paths, bursts, chances, most_false
from suffice_runtime.monitor import LossAlarm, LossDetector, MeanBounds

STREAMS, LENGTH, ALPHA = 2000, 2000, 0.05


def false_alarms(losses, max_loss):
    return int((LossAlarm.start(max_loss, ALPHA, losses.shape[1:]).update(losses).alarm > 0).sum())


def test_the_expected_e_value_over_every_path_is_one_at_the_bound_and_less_below():
    paths = all_paths(12)
    after = np.vstack([np.zeros(paths.shape[1]), paths[:-1]])  # the loss before
    for means, exact in [(0.3 + 0 * paths, True), (0.3 - 0.1 * after, False), (0.1 + 0 * paths, False)]:
        alarm = LossAlarm.start(0.3, ALPHA, paths.shape[1:])
        for n in range(len(paths)):
            alarm = alarm.update(paths[n : n + 1])
            expected = chances(paths, means) @ alarm.e_value
            assert expected <= 1 + 1e-12
        assert (expected > 1 - 1e-12) == exact


def test_the_expected_statistic_of_the_detector_over_every_path_is_the_number_of_losses():
    paths = all_paths(12)
    detector = LossDetector.start(0.3, 100.0, paths.shape[1:])
    for n in range(len(paths)):
        detector = detector.update(paths[n : n + 1])
        assert chances(paths, 0.3 + 0 * paths) @ np.exp(detector.log_statistic) == pytest.approx(n + 1, rel=1e-12)


@pytest.mark.parametrize("mean", [0.05, 0.03])
def test_independent_losses_within_the_bound_raise_few_false_alarms(mean):
    losses = np.random.default_rng(0).random((LENGTH, STREAMS)) < mean
    assert false_alarms(losses, 0.05) <= most_false(STREAMS, ALPHA)


def test_dependent_losses_within_the_bound_raise_few_false_alarms():
    losses = bursts(STREAMS, LENGTH, 0.05, np.random.default_rng(1))
    assert false_alarms(losses, 0.05) <= most_false(STREAMS, ALPHA)


def test_a_test_for_one_look_that_is_watched_continuously_would_raise_too_many():
    losses = np.random.default_rng(0).random((LENGTH, STREAMS)) < 0.05
    n = np.arange(1, LENGTH + 1)[:, None]
    z = (losses.cumsum(axis=0) - 0.05 * n) / np.sqrt(0.05 * 0.95 * n)
    assert (z[100:] > 1.645).any(axis=0).sum() > most_false(STREAMS, ALPHA)


def test_a_rise_raises_an_alarm_sooner_the_larger_it_is():
    generator, delays = np.random.default_rng(2), []
    for factor in (2, 4, 8):
        alarm = LossAlarm.start(0.05, ALPHA, (100,)).update(generator.random((1500, 100)) < 0.05 * factor)
        assert (alarm.alarm > 0).mean() >= 0.95
        delays.append(np.where(alarm.alarm > 0, alarm.alarm, 1500).mean())
    assert delays == sorted(delays, reverse=True)
    # log(1/α) nats are needed, and a loss gains at most the divergence of the true mean from the bound on average.
    divergence = 0.1 * math.log(2) + 0.9 * math.log(0.9 / 0.95)
    assert delays[0] > math.log(1 / ALPHA) / divergence


def test_a_rise_after_a_long_good_time_is_found_sooner_than_by_the_mean_so_far():
    generator, streams = np.random.default_rng(3), 50
    good, bad = generator.random((4000, streams)) < 0.02, generator.random((1000, streams)) < 0.15
    alarm = LossAlarm.start(0.05, ALPHA, (streams,)).update(good).update(bad)
    detector = LossDetector.start(0.05, 1e4, (streams,)).update(good).update(bad)
    whole, delays = MeanBounds.start((streams,)).update(good), np.zeros(streams)
    for n in range(0, 1000, 10):
        whole = whole.update(bad[n : n + 10])
        crossed = whole.log_e_above(0.05) >= -math.log(ALPHA)
        delays = np.where((delays == 0) & crossed, n + 10, delays)
    delays[delays == 0] = np.inf
    # Its mean is within the bound for the first 4,000 · 0.03/0.1 = 1,200 losses.
    assert np.isinf(delays).mean() > 0.9
    assert (alarm.alarm > 4000).mean() >= 0.95
    assert (detector.alarm > 4000).mean() >= 0.95
    assert np.median(detector.alarm) < np.median(alarm.alarm)


def test_the_detector_runs_as_long_as_stated_before_a_false_alarm():
    streams, length, stated = 500, 3000, 300
    losses = np.random.default_rng(4).random((length, streams)) < 0.05
    alarm = LossDetector.start(0.05, stated, (streams,)).update(losses).alarm
    runs = np.where(alarm == 0, length, alarm)  # at most the true lengths
    assert runs.mean() >= stated - 4 * runs.std() / math.sqrt(streams)
    assert (alarm > 0).mean() > 0.5  # and there is one eventually


def test_batches_give_what_single_losses_give():
    x = np.random.default_rng(5).random(60)
    whole = LossAlarm.start(0.4, ALPHA).update(x)
    parts = LossAlarm.start(0.4, ALPHA).update(x[:25]).update([]).update(x[25:])
    assert whole.log_e == parts.log_e
    assert whole.alarm == parts.alarm


def test_the_e_value_saturates():
    alarm = LossAlarm.start(0.001, ALPHA).update(np.ones(500))
    assert alarm.log_e > 800
    assert alarm.e_value == pytest.approx(np.finfo(float).max, rel=1e-12)
    assert np.isfinite(alarm.e_value)


def test_numbers_outside_their_ranges_are_refused():
    for bound in (0, 1, math.nan):
        with pytest.raises(ValueError, match="expected max_loss between 0 and 1"):
            LossAlarm.start(bound, 0.05)
    with pytest.raises(ValueError, match="expected alpha between 0 and 1"):
        LossAlarm.start(0.1, 1)
    with pytest.raises(ValueError, match=r"expected a finite run_length of at least 1, got 0\.5"):
        LossDetector.start(0.1, 0.5)
    with pytest.raises(ValueError, match=r"expected losses in \[0, 1\].* got -1 at position \(0, 1\)"):
        LossAlarm.start(0.1, 0.05, (2,)).update([[0.0, -1.0]])
