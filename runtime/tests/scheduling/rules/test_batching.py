import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suffice_runtime.scheduling.rules import batching

SIZES = (1, 2, 4, 8, 16, 32, 64)

times = st.tuples(st.floats(0, 1), st.floats(1e-6, 1))
counts = st.integers(1, 200)


def affine(fixed, each):
    return lambda rows: fixed + each * rows


@given(times, counts)
def test_where_a_batch_saves_time_as_many_run_as_are_there(pair, waiting):
    fixed, each = pair
    if fixed > 1e-3 * each:  # else the saving is within rounding
        assert batching.size_to_run(waiting, SIZES, affine(fixed, each)) == min(waiting, 64)
        assert batching.best_size(SIZES, affine(fixed, each)) == 64


def test_a_size_whose_examples_take_longer_is_not_used():
    measured = {1: 0.74, 2: 1.5, 4: 3.0, 8: 5.8, 16: 13.0, 32: 28.0, 64: 59.7}
    assert batching.best_size(SIZES, measured.__getitem__) == 8
    assert batching.size_to_run(64, SIZES, measured.__getitem__) == 8
    assert batching.size_to_run(4, SIZES, measured.__getitem__) == 1


def test_padded_batches_round_up_or_down_by_their_time():
    def fixed(rows):
        return 5.0

    def proportional(rows):
        return float(next(size for size in SIZES if size >= rows))

    assert batching.size_to_run(5, SIZES, fixed) == 5  # and is padded to 8
    assert batching.size_to_run(5, SIZES, proportional) == 4


@given(st.floats(1e-6, 10), counts, st.floats(0, 1), st.floats(1e-6, 1))
def test_nothing_waits_where_a_batch_saves_no_time(each, waiting, bound, interval):
    waits = batching.time_to_wait(min(waiting, 64), bound, 64, SIZES, affine(0.0, each), lambda more: more * interval)
    assert waits == 0


@given(times, counts, st.floats(0, 1))
def test_nothing_waits_if_nothing_is_expected(pair, waiting, bound):
    assert batching.time_to_wait(waiting, bound, 64, SIZES, affine(*pair), lambda more: math.inf) == 0


@given(times, counts, st.floats(0, 0.1), st.floats(1e-6, 1))
def test_a_wait_is_within_the_bound_and_saves_time(pair, waiting, bound, interval):
    found = batching.time_to_wait(waiting, bound, 64, SIZES, affine(*pair), lambda more: more * interval)
    assert 0 <= found <= bound
    if found:
        assert waiting < 64
        more = round(found / interval)
        assert batching.saving(waiting, more, found, affine(*pair)) > 0


def test_the_saving_is_that_of_the_times_until_the_answers():
    # Two wait, two more come in 1 s; c(n) = 5 s. Now: 2 · 5 + 2 · (5 + 5) = 30. Later: 4 · (1 + 5) = 24.
    assert batching.saving(2, 2, 1.0, lambda rows: 5.0) == pytest.approx((30 - 24) / 4)


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.floats(0, 1), st.floats(0, 5))
def test_a_stage_that_is_passed_over_is_the_most_urgent_after_some_time(mine, other, wait, queued):
    scale = max(wait, queued, 1e-9)
    assert batching.urgency(mine, 2 * scale, wait, queued) > batching.urgency(other, 0, wait, queued)
