import math
from dataclasses import replace

import labeled
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suffice_runtime.serving.history import COARSE_SECONDS, SECONDS, History, Point, Rates
from suffice_runtime.serving.statistics import Buckets

EDGES = (0.1, 0.2, 0.5)

POINT = Point(
    time=1000.0, seconds=0.0, requests=0, examples=0, refused=0, durations=np.zeros(4, np.int64), edges=EDGES,
    policy_version=1, step=0, audited=0, loss=None, bound=None, e_value=None, e_limit=None, exits_e_value=None,
    exits_e_limit=None, cost=None,
)  # fmt: skip


def at(seconds, **entries):
    return replace(POINT, time=1000.0 + seconds, seconds=float(seconds), **entries)


def filled(n, step=SECONDS, points=20, coarse_points=5):
    history = History(points, coarse_points)
    for i in range(n):
        history.add(at(i * step))
    return history


def test_a_history_keeps_the_latest_points_and_sparse_ones_for_longer():
    history = filled(1000)
    times = [point.seconds for point in history.points()]
    fine = [10.0 * i for i in range(980, 1000)]
    every_ten_minutes = [COARSE_SECONDS * i for i in range(16 - 4, 17)]
    assert times == [*[time for time in every_ten_minutes if time < fine[0]], *fine]
    assert len(history) == len(times)


def test_a_history_is_bounded_also_before_it_is_full():
    assert [len(filled(n)) for n in (0, 1, 19, 20, 61, 3000)] == [0, 1, 19, 20, 21, 25]


def test_a_day_and_a_month_are_kept():
    history, first = History(), 0
    for step, end in ((COARSE_SECONDS, 35 * 86400), (SECONDS, 36.5 * 86400)):
        for seconds in np.arange(first, end, step).tolist():
            history.add(at(seconds))
        first = end
    times = np.array([point.seconds for point in history.points()])
    ages = times[-1] - times
    assert ages[0] >= 30 * 86400
    assert (ages < 86400).sum() == 86400 / SECONDS
    assert np.diff(times).max() == COARSE_SECONDS
    assert len(history) < 13_200


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.floats(900, 1700), st.integers(2, 30))
def test_points_since_a_time_are_with_the_one_before_them(n, since, most):
    history = filled(n, points=100)
    every, found = history.points(), history.points(since)
    later = [point for point in every if point.time > since]
    assert found == (every[-len(later) - 1 :] if len(later) < len(every) else every)
    thinned = history.points(since, most)
    assert len(thinned) == min(len(found), most)
    assert (thinned[0], thinned[-1]) == (found[0], found[-1])
    assert [point.time for point in thinned] == sorted({point.time for point in thinned})


def test_the_point_before_recent_ones_is_the_latest_or_else_the_first():
    history = filled(10)
    assert [history.before(seconds).seconds for seconds in (-1, 0, 9.9, 10, 55, 1e9)] == [0, 0, 0, 10, 50, 90]
    assert History().before(1.0) is None


def test_clocks_that_are_set_back_do_not_hide_later_points():
    history = History()
    for seconds, time in ((0, 5000), (10, 1000), (20, 1010)):
        history.add(replace(at(seconds), time=float(time)))
    assert [point.seconds for point in history.points(1000)] == [10, 20]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1), st.lists(st.floats(0, 1)), st.floats(0.1, 100))
def test_rates_are_those_of_the_values_between_two_points(first, second, seconds):
    buckets, points = Buckets(EDGES), []
    for i, values in enumerate((first, second)):
        for value in values:
            buckets.add(value)
        total = len(first) + (len(second) if i else 0)
        counts = np.array(buckets.snapshot().counts)
        points.append(at(i * seconds, requests=total, examples=3 * total, refused=i, durations=counts))
    rates = Rates.between(*points)
    assert (rates.requests, rates.refused) == (len(second), 1)
    assert rates.requests_per_second == pytest.approx(len(second) / seconds)
    assert rates.examples_per_second == pytest.approx(3 * len(second) / seconds)
    if second:
        median = np.quantile(second, 0.5, method="inverted_cdf")
        assert rates.median_seconds == next(edge for edge in (*EDGES, math.inf) if median <= edge)
    else:
        assert math.isnan(rates.p99_seconds)


def test_rates_without_time_between_are_zero():
    assert Rates.between(POINT, POINT).examples_per_second == 0


def test_a_point_has_what_an_engine_has_counted_and_watched(started):
    engine = started(labeled.as_runner(labeled.network()), audit_share=1.0)
    engine.submit(labeled.stream(50, 0.0)).result()
    counts, watch = engine.statistics(), engine.watch()
    point = Point.of(counts, watch)
    assert (point.requests, point.examples, point.seconds) == (1, 50, counts.seconds)
    assert point.durations.sum() == 1
    assert (point.policy_version, point.e_limit) == (1, watch.e_limit)
