import math

import numpy as np
import pytest

from monitor.streams import all_paths, bursts, chances, most_false
from suffice_runtime.monitor import MeanBounds, bets

STREAMS, ALPHA = 2000, 0.05


def of(losses):
    return MeanBounds.start(losses.shape[1:]).update(losses)


def test_the_evidence_is_the_product_of_the_factors_of_each_loss():
    x = np.random.default_rng(0).random(50)
    for m in (0.02, 0.5, 0.9):
        above = sum(
            w * math.prod((1 + g * v) / (1 + g * m) for v in x) for g, w in zip(bets.SIZES, bets.WEIGHTS, strict=True)
        )
        assert of(x).log_e_above(m) == pytest.approx(math.log(above), abs=1e-9)
        assert of(1 - x).log_e_below(1 - m) == pytest.approx(math.log(above), abs=1e-9)


def test_the_expected_evidence_over_every_path_is_one_at_the_mean_and_less_where_the_mean_moves():
    paths = all_paths(12)
    steady = np.full(paths.shape, 0.3)
    rising = np.where(np.arange(12)[:, None] < 6, 0.1, 0.5) + 0 * paths
    after = 0.2 + 0.4 * np.vstack([np.zeros(paths.shape[1]), paths[:-1]])  # depends on the loss before
    for means, exact in [(steady, True), (rising, False), (after, False)]:
        for evidence in ("log_e_above", "log_e_below"):
            expected = chances(paths, means) @ np.exp(getattr(of(paths), evidence)(means.mean(axis=0)))
            assert expected <= 1 + 1e-9
            assert (expected > 1 - 1e-9) == exact


def crossings(losses, means):
    """Return how many streams have the running mean of their conditional means outside a bound at any time."""
    state, outside = MeanBounds.start(losses.shape[1:]), np.zeros((2, losses.shape[1]), dtype=bool)
    sums = np.zeros(losses.shape[1])
    for n, (row, mean) in enumerate(zip(losses, means, strict=True), start=1):
        state, sums = state.update(row[None]), sums + mean
        logs = np.stack([state.log_e_above(sums / n), state.log_e_below(sums / n)])
        outside |= logs >= -math.log(ALPHA)
    return outside.sum(axis=1)


def test_bounds_hold_at_all_times_at_once():
    generator = np.random.default_rng(0)
    steady = (generator.random((200, STREAMS)) < 0.1).astype(float)
    assert (crossings(steady, np.full(200, 0.1)) <= most_false(STREAMS, ALPHA)).all()


def test_bounds_hold_for_dependent_losses_with_a_mean_that_moves():
    generator = np.random.default_rng(1)
    losses = np.concatenate([bursts(STREAMS, 100, mean, generator) for mean in (0.02, 0.3)])
    means = np.repeat([0.02, 0.3], 100)
    assert (crossings(losses, means) <= most_false(STREAMS, ALPHA)).all()


def test_the_bounds_are_where_the_evidence_reaches_its_level():
    losses = (np.random.default_rng(2).random((3000, 4)) < [0.0, 0.003, 0.2, 1.0]).astype(float)
    state = of(losses)
    lower, upper = state.lower(ALPHA), state.upper(ALPHA)
    assert (lower <= state.mean).all()
    assert (state.mean <= upper).all()
    assert lower[0] == 0
    assert upper[3] == 1
    np.testing.assert_allclose(state.log_e_above(lower)[1:], -math.log(ALPHA), atol=1e-6)
    np.testing.assert_allclose(state.log_e_below(upper)[:3], -math.log(ALPHA), atol=1e-6)


def test_without_observations_nothing_is_excluded():
    state = MeanBounds.start((2,))
    assert state.lower(0.05).tolist() == [0, 0]
    assert state.upper(0.05).tolist() == [1, 1]
    assert np.isnan(state.mean).all()


def test_zero_losses_give_a_bound_near_that_of_one_look():
    state = of(np.zeros(1000))
    once = 1 - ALPHA ** (1 / 1000)  # the exact binomial bound for one look at n = 1,000
    assert once < state.upper(ALPHA) < 3 * once


def test_bounds_agree_with_those_of_mapie_for_rare_losses():
    bounds = pytest.importorskip("mapie.exchangeability_testing.bounds")
    losses = (np.random.default_rng(3).random(2000) < 0.03).astype(float)
    for side, ours in [("lower", of(losses).lower(0.025)), ("upper", of(losses).upper(0.025))]:
        theirs = bounds.conjugate_mixture_empirical_bernstein_bound(
            losses, v_opt=60, alpha=0.05, bound_side=side, running_intersection=False
        )[-1]
        # Both are wider than √(2 · 0.03 log(2/0.05)/2000) = 0.0105, the half-width for one look, and differ by less.
        assert min(abs(ours - losses.mean()), abs(theirs - losses.mean())) > 0.0105
        assert abs(ours - theirs) < 0.0105


def test_parts_merge_in_any_order():
    x = np.random.default_rng(4).random((300, 2))
    whole, merged = of(x), of(x[200:]).merge(of(x[:50])).merge(of(x[50:200]))
    assert merged.count == 300
    # Rounding: sums of 300 terms of one sign, in two orders, each of relative error 300 u.
    for name in ("total", "above", "below"):
        np.testing.assert_allclose(getattr(merged, name), getattr(whole, name), rtol=300 * np.finfo(float).eps)


@pytest.mark.numerics
def test_evidence_is_stable_over_ten_million_losses():
    part = (np.arange(10_000) % 100 == 0).astype(float)
    state = of(part)
    total = MeanBounds.start()
    for _ in range(1000):
        total = total.merge(state)
    n, s = total.count, float(total.total)
    assert (n, s) == (10_000_000, 100_000)
    for m in (0.0101, 0.012, 0.5):
        logs = s * np.log1p(bets.SIZES) - n * np.log1p(bets.SIZES * m)
        # Rounding: the sums have at most 11,000 additions in a row, of terms of one sign.
        tolerance = 11_000 * np.finfo(float).eps * float(total.above.max())
        assert abs(total.log_e_above(m) - bets.log_mixture(logs)) <= tolerance
    assert total.log_e_below(0.5) > 1e6
    # The least weight of a bet is 0.0011: bounds are within √(2 log(1/(0.05 · 0.0011))) = 4.4 standard errors, and half
    # a step between two sizes.
    error = math.sqrt(0.01 * 0.99 / n)
    assert 0.01 - 5 * error < total.lower(ALPHA) < 0.01 < total.upper(ALPHA) < 0.01 + 5 * error


def test_what_cannot_be_a_loss_is_refused():
    state = MeanBounds.start()
    with pytest.raises(ValueError, match=r"expected losses in \[0, 1\].* got 1.5 at position 1"):
        state.update([0.0, 1.5])
    with pytest.raises(ValueError, match="expected finite observations, got nan at position 0"):
        state.update([math.nan])
    with pytest.raises(ValueError, match=r"expected observations of shape \(n\), in order of time, got \(2, 1\)"):
        state.update([[0.0], [1.0]])
    with pytest.raises(TypeError, match="expected observations as numbers"):
        state.update(["a"])
    with pytest.raises(TypeError, match="got a masked array"):
        state.update(np.ma.masked_array([0.0], [True]))
    with pytest.raises(ValueError, match="expected alpha between 0 and 1, got 0"):
        state.upper(0)
