"""Evidence of several replicas, which observe different requests, may be multiplied."""

import math

import numpy as np
import pytest

from suffice_runtime.monitor import LossAlarm

RUNS, REPLICAS, LOSSES, ALPHA, BOUND = 400, 3, 600, 0.1, 0.05


def alarms(rate):
    """Return numbers of losses before evidence reaches 1/ALPHA.

    Args:
        rate: Mean of the losses.

    Returns:
        Losses of each replica (RUNS,) before the product of their e-values does, losses (RUNS, REPLICAS) of a replica
        before its own does, and losses (RUNS,) of a server that has the requests of all.
    """
    state = LossAlarm.start(BOUND, ALPHA, (RUNS, REPLICAS))
    first = np.full(RUNS, np.inf)
    losses = np.random.default_rng(0).random((LOSSES, RUNS, REPLICAS)) < rate
    for i, each in enumerate(losses):
        state = state.update(each[None])
        reached = state.log_e.sum(axis=1) >= -math.log(ALPHA)
        first = np.where(reached & np.isinf(first), i + 1, first)
    whole = LossAlarm.start(BOUND, ALPHA, (RUNS,)).update(losses.transpose(0, 2, 1).reshape(-1, RUNS))
    alone, together = (np.where(found.alarm > 0, found.alarm, np.inf) for found in (state, whole))
    return first, alone, together


def test_a_product_has_false_alarms_with_a_probability_of_at_most_alpha():
    first, *_ = alarms(BOUND)
    assert np.isfinite(first).mean() <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)


def test_a_product_is_sooner_than_each_of_its_replicas():
    first, alone, _ = alarms(2 * BOUND)
    assert np.median(first) < np.median(alone.min(axis=1))


def test_a_product_is_about_as_soon_as_one_server_with_the_requests_of_all():
    first, _, together = alarms(2 * BOUND)
    # the standard error of a median of times that are about exponential is 1.25/√RUNS of it; three, of both medians
    assert np.median(REPLICAS * first) == pytest.approx(
        np.median(together), rel=3 * math.sqrt(2) * 1.25 / math.sqrt(RUNS)
    )
