import math

import numpy as np
import pytest

from suffice_runtime.monitor.capital import Capital, EProcess, share, unused

WEIGHTS = np.array([0.25, 0.75])


def test_the_shares_of_all_starting_times_sum_to_one():
    assert share(1) == 0.5
    used = 0.0
    for k in range(1, 200):
        used += share(k)
        assert used + unused(k) == pytest.approx(1, abs=200 * np.finfo(float).eps)
    assert unused(10**30) < 0.01
    assert share(10**9) > 0  # no difference of two equal numbers


def test_the_recursion_is_the_sum_over_all_bets_and_starting_times():
    factors = np.random.default_rng(0).uniform(0.5, 1.7, (30, 2))
    process, detector = EProcess.start(0.05, WEIGHTS), Capital.start(WEIGHTS, 1.0, ())
    for n in range(30):
        process, detector = process.advance(factors[n], WEIGHTS), detector.advance(factors[n], WEIGHTS)
        wealth = [WEIGHTS @ factors[k : n + 1].prod(axis=0) for k in range(n + 1)]
        e_value = sum(share(k + 1) * wealth[k] for k in range(n + 1)) + unused(n + 1)
        assert process.log_e == pytest.approx(math.log(e_value), abs=1e-12)
        assert detector.log_total(-1.0) == pytest.approx(math.log(sum(wealth)), abs=1e-12)


@pytest.mark.numerics
def test_capital_neither_overflows_nor_is_lost():
    process, count = EProcess.start(0.05, WEIGHTS, (2,)), 3000
    for _ in range(count):
        process = process.advance(np.array([[10.0, 1.0], [0.1, 0.1]]), WEIGHTS)
    # The first bet of the first stream grows by log 10 each time; later starts add at most a factor 10/9 to it.
    assert process.log_e[0] - (count * math.log(10) + math.log(0.25 / 2)) == pytest.approx(0, abs=math.log(10 / 9))
    assert process.log_e[1] >= math.log(unused(count + 1))
    assert process.alarm.tolist() == [3, 0]
    assert process.peak[1] == 0
    assert np.isfinite(process.capital.capital).all()


def test_an_alarm_stays_at_the_time_of_its_first_crossing():
    process = EProcess.start(0.5, np.ones(1))
    for factor in (1.0, 4.0, 0.01, 100.0, 100.0):
        process = process.advance(np.array([factor]), np.ones(1))
    assert process.alarm == 2
    assert process.peak >= process.log_e
