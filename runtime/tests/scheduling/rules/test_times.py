import math

import pytest

from suffice_runtime.scheduling.rules.rates import Rate
from suffice_runtime.scheduling.rules.times import MEMORY, TABLES, Times

SIZES = (1, 2, 4, 8)


def test_times_are_interpolated_between_the_sizes_that_ran():
    times = Times(2, SIZES)
    for rows, seconds in ((1, 1.0), (8, 8.0)):
        times.record(1, 5, rows, seconds)
    assert [times.seconds(1, 5, rows) for rows in (1, 3, 8)] == pytest.approx([1.0, 3.0, 8.0])
    assert times.seconds(0, 5, 3) == 0


def test_a_size_that_did_not_run_is_expected_to_take_no_longer_than_the_greatest_that_did():
    times = Times(1, SIZES)
    times.record(0, 5, 2, 3.0)
    assert [times.seconds(0, 5, rows) for rows in (1, 2, 8)] == [3.0, 3.0, 3.0]


def test_runs_of_one_size_are_averaged_with_their_numbers_of_rows():
    times = Times(1, SIZES)
    for rows, seconds in ((5, 50.0), (7, 70.0)):
        times.record(0, 5, rows, seconds)
    times.record(0, 5, 4, 40.0)
    assert times.seconds(0, 5, 5) == pytest.approx(50.0)  # between 4 rows and the mean of 6


def test_more_rows_than_the_greatest_size_are_refused():
    with pytest.raises(ValueError, match="expected at most 8 rows, got 9"):
        Times(1, SIZES).record(0, 5, 9, 1.0)


def test_new_measurements_replace_old_ones():
    times = Times(1, SIZES)
    for seconds in [1.0] * 20 + [2.0] * 20:
        times.record(0, 5, 4, seconds)
    # (1 − 0.2)^20 of the first ones are left.
    assert times.seconds(0, 5, 4) == pytest.approx(2 - 0.8**20)


def test_a_size_that_has_not_run_for_long_is_forgotten():
    times = Times(1, SIZES)
    times.record(0, 5, 8, 100.0)
    for _ in range(MEMORY):
        times.record(0, 5, 1, 1.0)
    assert times.seconds(0, 5, 8) == 1.0


def test_an_unknown_length_has_the_times_of_the_nearest_one():
    times = Times(1, SIZES)
    times.record(0, 10, 1, 1.0)
    times.record(0, 20, 1, 2.0)
    assert [times.seconds(0, numbers, 1) for numbers in (9, 10, 14, 17, 90)] == [1, 1, 1, 2, 2]


def test_only_the_lengths_that_ran_last_are_kept():
    times = Times(1, SIZES)
    for numbers in range(1, TABLES + 2):
        times.record(0, numbers, 1, float(numbers))
    assert times.seconds(0, 1, 1) == 2.0


def test_a_rate_is_that_of_a_steady_stream():
    rate, interval = Rate(), 0.01
    assert rate.time_for(1, 0.0) == math.inf
    for i in range(1001):
        rate.add(1, i * interval)
    # Σ exp(−i h) = 1 / (1 − exp(−h)), about 1 / h + 1/2, with h = 0.01 and 10 memories behind.
    assert rate.per_second(10.0) == pytest.approx(100.5, rel=1e-3)
    assert rate.time_for(2, 10.0) == pytest.approx(2 / 100.5, rel=1e-3)


def test_an_event_that_is_overdue_is_not_expected_soon():
    rate = Rate()
    for i in range(100):
        rate.add(1, i * 0.01)
    assert rate.time_for(1, 0.99 + 0.5) == pytest.approx(0.5)
