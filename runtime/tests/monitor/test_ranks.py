import math
from dataclasses import replace

import numpy as np
import pytest

from monitor.streams import most_false
from suffice_runtime.monitor import LossAlarm, watch_exits, watch_values
from suffice_runtime.monitor.ranks import bet_on_shape, bet_on_shares, rank

STREAMS, LENGTH, ALPHA = 2000, 600, 0.05
SHARES = [0.6, 0.25, 0.15]


def with_references(alarm, values):
    """Return the alarm with a reference of its own (n, streams) for each stream."""
    bins = np.searchsorted(alarm.edges, values, side="right")
    counts = np.stack([(bins == b).sum(axis=0) for b in range(len(alarm.edges) + 1)], axis=-1)
    return replace(alarm, counts=counts)


def test_p_values_rank_a_value_among_the_reference_and_itself():
    counts = np.array([3, 0, 5, 2])
    assert rank(counts, np.array(0), 0.5) == pytest.approx(0.5 * 4 / 11)
    assert rank(counts, np.array(1), 0.5) == pytest.approx((3 + 0.5) / 11)
    assert rank(counts, np.array(3), 0.25) == pytest.approx((8 + 0.25 * 3) / 11)


def test_p_values_are_those_of_mapie():
    martingales = pytest.importorskip("mapie.exchangeability_testing.martingales")
    generator = np.random.default_rng(0)
    history = generator.integers(0, 4, 50)
    for value in range(5):
        theirs = martingales.OnlineMartingaleTest(random_state=7).compute_p_value(-value, -history)
        uniform = np.random.default_rng(7).random()
        ours = rank(np.bincount(history, minlength=5), np.array(value), uniform)
        assert ours == pytest.approx(theirs, rel=1e-12)


def test_p_values_of_exchangeable_values_are_uniform_and_independent():
    """The first two p-values after a reference of three values, which have two levels, so that there are ties."""
    generator, draws = np.random.default_rng(1), 40_000
    values = generator.integers(0, 2, (5, draws))
    counts = np.stack([(values[:3] == b).sum(axis=0) for b in (0, 1)], axis=-1)
    p = []
    for row in values[3:]:
        p.append(rank(counts, row, generator.random(draws)))
        counts = counts + (row[:, None] == [0, 1])
    observed = np.histogram2d(*p, bins=4, range=[[0, 1], [0, 1]])[0] / draws
    # Standard error of a share of 1/16.
    assert np.abs(observed - 1 / 16).max() < 5 * math.sqrt(1 / 16 * 15 / 16 / draws)


def test_bets_on_uniform_p_values_are_fair():
    middles = (np.arange(1000) + 0.5) / 1000  # exact for functions that are linear between the cuts
    for factors in (bet_on_shape(middles), bet_on_shares(middles, np.array([0.2, 0.21, 0.7]))):
        np.testing.assert_allclose(factors.mean(axis=0), 1, rtol=1e-12)
        assert (factors > 0).all()


@pytest.mark.parametrize("kind", ["exits", "values"])
def test_exchangeable_values_raise_few_false_alarms_even_with_a_small_reference(kind):
    generator = np.random.default_rng(2)
    if kind == "exits":
        live = generator.choice(3, (LENGTH + 40, STREAMS), p=SHARES)
        alarm = watch_exits(generator.choice(3, 80, p=SHARES), 3, ALPHA, streams=(STREAMS,))
    else:
        live = generator.standard_cauchy((LENGTH + 40, STREAMS))
        alarm = watch_values(generator.standard_cauchy(80), ALPHA, streams=(STREAMS,))
    alarm = with_references(alarm, live[:40]).update(live[40:], generator=generator)
    assert (alarm.alarm > 0).sum() <= most_false(STREAMS, ALPHA)


def test_a_reference_taken_for_the_truth_would_raise_too_many():
    generator = np.random.default_rng(3)
    shares = generator.binomial(40, 0.15, STREAMS) / 40
    live = generator.random((LENGTH, STREAMS)) < 0.15
    raised = 0
    for share in np.unique(shares[shares > 0]):
        streams = live[:, shares == share]
        raised += (LossAlarm.start(float(share), ALPHA, streams.shape[1:]).update(streams).alarm > 0).sum()
    assert raised > most_false(STREAMS, ALPHA)


@pytest.mark.parametrize("moved", [[0.4, 0.25, 0.35], [0.6, 0.4, 0.0], [0.8, 0.1, 0.1]])
def test_shares_that_move_raise_an_alarm_also_late(moved):
    generator = np.random.default_rng(4)
    alarm = watch_exits(generator.choice(3, 4000, p=SHARES), 3, ALPHA, streams=(20,))
    alarm = alarm.update(generator.choice(3, (1000, 20), p=SHARES), generator=generator)
    assert (alarm.alarm == 0).mean() >= 0.85
    alarm = alarm.update(generator.choice(3, (1000, 20), p=moved), generator=generator)
    assert (alarm.alarm > 0).all()


@pytest.mark.parametrize("move", [lambda x: x + 0.5, lambda x: x - 0.5, lambda x: 2 * x, lambda x: x / 2])
def test_values_that_move_or_spread_raise_an_alarm(move):
    generator = np.random.default_rng(5)
    alarm = watch_values(generator.normal(size=4000), ALPHA, streams=(20,))
    alarm = alarm.update(move(generator.normal(size=(1000, 20))), generator=generator)
    assert (alarm.alarm > 0).all()


def test_costs_with_few_values_and_constants_can_be_watched():
    generator = np.random.default_rng(6)
    costs = np.array([10.0, 25.0, 60.0])
    alarm = watch_values(costs[generator.choice(3, 2000, p=SHARES)], ALPHA)
    assert alarm.update(np.full(300, 60.0), generator=generator).alarm > 0
    constant = watch_values(np.ones(100), ALPHA).update(np.ones(500), generator=generator)
    assert constant.alarm == 0


def test_the_state_does_not_grow_and_counts_every_value():
    generator = np.random.default_rng(7)
    alarm = watch_values(generator.normal(size=1000), ALPHA)
    after = alarm.update(generator.normal(size=300), generator=generator)
    assert after.counts.shape == alarm.counts.shape
    assert (alarm.counts.sum(), after.counts.sum()) == (500, 800)


def test_the_generator_decides_ties_alone():
    exits = np.arange(200) % 3
    alarm = watch_exits(exits, 3, ALPHA)
    runs = [alarm.update(exits, generator=np.random.default_rng(seed)).log_e for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_what_cannot_be_watched_is_refused():
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match="expected at least 20 exits of the calibration data, got 3"):
        watch_exits([0, 1, 2], 3, 0.05)
    with pytest.raises(ValueError, match="expected exits from 0 to 2, got values from 0 to 3"):
        watch_exits(np.arange(40) % 4, 3, 0.05)
    with pytest.raises(ValueError, match=r"expected exits from 0 to 2, got values from 1 to 1\.5"):
        watch_exits(np.arange(40) % 3, 3, 0.05).update([1, 1.5], generator=generator)
    with pytest.raises(ValueError, match="expected finite observations, got inf at position 1"):
        watch_values(np.arange(40), 0.05).update([1, math.inf], generator=generator)
    with pytest.raises(ValueError, match="expected num_exits of at least 2, got 1"):
        watch_exits(np.zeros(40), 1, 0.05)
