"""Evidence of several replicas, which observe different requests, may be multiplied."""

import math

import numpy as np

from suffice_runtime.monitor import LossAlarm

RUNS, REPLICAS, LOSSES, ALPHA, BOUND = 400, 3, 600, 0.1, 0.05


def alarms(rate):
    """Return the number of losses of each replica (RUNS,) before the product of their e-values reaches 1/ALPHA."""
    state = LossAlarm.start(BOUND, ALPHA, (RUNS, REPLICAS))
    first = np.full(RUNS, np.inf)
    losses = np.random.default_rng(0).random((LOSSES, RUNS, REPLICAS)) < rate
    for i, each in enumerate(losses):
        state = state.update(each[None])
        reached = state.log_e.sum(axis=1) >= -math.log(ALPHA)
        first = np.where(reached & np.isinf(first), i + 1, first)
    alone = np.where(state.alarm > 0, state.alarm, np.inf)
    return first, alone


def test_a_product_has_false_alarms_with_a_probability_of_at_most_alpha():
    first, _ = alarms(BOUND)
    assert np.isfinite(first).mean() <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)


def test_a_product_is_sooner_than_each_of_its_replicas():
    first, alone = alarms(2 * BOUND)
    assert np.median(first) < np.median(alone.min(axis=1))
