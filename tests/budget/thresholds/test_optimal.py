import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suffice.budget.thresholds.families import STEEPEST, bracket, choose, geometric, rank
from suffice.budget.thresholds.optimal import best_thresholds, most_accurate, price_range

PRICES = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)


def synthetic(n, seed, exits=3, noise=0.7):
    """Return calibrated chances (K, N), which are scores too, of exits that estimate an example's ease ever better."""
    generator = torch.Generator().manual_seed(seed)
    ease = torch.randn(n, generator=generator, dtype=torch.float64) + 0.5
    chances = []
    for k in range(exits):
        estimate = ease + noise * (exits - k) * torch.randn(n, generator=generator, dtype=torch.float64)
        chances.append((0.7 * estimate + 0.6 * k).sigmoid())
    return torch.stack(chances)


def value(chances, thresholds):
    exits = choose(list(chances), thresholds)
    return float(chances[exits, torch.arange(chances.shape[1])].mean())


def mean_cost(chances, thresholds, prices=PRICES):
    return float(prices[choose(list(chances), thresholds)].mean())


def brute_force(values, gains):
    """Return the greatest mean gain over all pairs of thresholds, each between two scores or beyond them."""
    grids = []
    for scores in values[:-1]:
        distinct = scores.unique()
        between = (distinct[1:] + distinct[:-1]) / 2
        grids.append([-torch.inf, *between.tolist(), torch.inf])
    rows = torch.arange(gains.shape[1])
    greatest = -torch.inf
    for thresholds in itertools.product(*grids):
        exits = choose(list(values), torch.tensor(thresholds, dtype=torch.float64))
        greatest = max(greatest, float(gains[exits, rows].mean()))
    return greatest


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 25), penalty=st.floats(0.0, 0.5), coarse=st.booleans())
def test_two_thresholds_are_nearly_as_good_as_trying_all(seed, n, penalty, coarse):
    """The ascent is exact in each threshold; together they may stop at a local optimum, less than an example away."""
    chances = synthetic(n, seed)
    if coarse:
        chances = (8 * chances).round() / 8
    gains = chances - penalty * PRICES[:, None]
    thresholds = best_thresholds(rank(list(chances)), gains)
    exits = choose(list(chances), thresholds)
    reached = float(gains[exits, torch.arange(n)].mean())
    assert reached <= brute_force(chances, gains) + 1e-12
    assert reached >= brute_force(chances, gains) - 0.5 / n


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 60), coarse=st.booleans())
def test_one_threshold_is_exactly_the_best(seed, n, coarse):
    chances = synthetic(n, seed, exits=2)
    if coarse:
        chances = (8 * chances).round() / 8
    gains = chances - 0.1 * PRICES[:2, None]
    exits = choose(list(chances), best_thresholds(rank(list(chances)), gains))
    assert float(gains[exits, torch.arange(n)].mean()) == pytest.approx(brute_force(chances, gains))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 40), part=st.floats(0, 1))
def test_one_threshold_is_exactly_the_best_where_examples_differ_in_cost(seed, n, part):
    chances, generator = synthetic(n, seed, exits=2), torch.Generator().manual_seed(seed)
    prices = PRICES[:2, None] * (1 + 20 * torch.rand(n, generator=generator, dtype=torch.float64))
    low, high = price_range(prices)
    minus_log = low + part * (high - low)
    gains = chances - prices * math.exp(-minus_log)
    exits = choose(list(chances), most_accurate(rank(list(chances)), chances, prices)(minus_log))
    assert float(gains[exits, torch.arange(n)].mean()) == pytest.approx(brute_force(chances, gains))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 200))
def test_no_single_threshold_can_be_improved_alone(seed, n):
    chances = synthetic(n, seed)
    gains, rows = chances - 0.1 * PRICES[:, None], torch.arange(n)
    thresholds = best_thresholds(rank(list(chances)), gains)
    reached = float(gains[choose(list(chances), thresholds), rows].mean())
    for k in range(2):
        for other in [torch.inf, -torch.inf, *chances[k].tolist()]:
            changed = thresholds.clone()
            changed[k] = other
            assert float(gains[choose(list(chances), changed), rows].mean()) <= reached + 1e-12


def test_the_ends_stop_all_at_once_or_as_late_as_that_helps():
    chances = synthetic(500, 0)
    family = most_accurate(rank(list(chances)), chances, PRICES[:, None])
    dear, free = price_range(PRICES[:, None])
    assert mean_cost(chances, family(dear)) == 1.0
    assert value(chances, family(free)) == pytest.approx(brute_force_free(chances), abs=1e-3)


def brute_force_free(chances):
    """Return the best mean chance when cost does not matter, by a search over quantiles."""
    grids = [
        torch.cat([row.quantile(torch.linspace(0, 1, 60, dtype=torch.float64)), row.max()[None] + 1])
        for row in chances[:2]
    ]
    return max(value(chances, torch.stack(pair)) for pair in itertools.product(*grids))


@pytest.mark.parametrize("budget", [1.3, 1.8, 2.5, 3.3])
def test_at_the_same_budget_it_expects_no_less_than_geometric_shares_and_gets_no_less_on_fresh_data(budget):
    chances, fresh = synthetic(5000, 1), synthetic(20_000, 2)
    ranked = rank(list(chances))
    families = {
        "geometric": (geometric(ranked, 3), (-STEEPEST, STEEPEST)),
        "optimal": (most_accurate(ranked, chances, PRICES[:, None]), price_range(PRICES[:, None])),
    }
    chosen = {
        name: bracket(family, lambda thresholds: mean_cost(chances, thresholds), budget, limits)[0]
        for name, (family, limits) in families.items()
    }
    assert value(chances, chosen["optimal"]) >= value(chances, chosen["geometric"])
    spread = 2 * float(fresh.std()) / 20_000**0.5
    assert value(fresh, chosen["optimal"]) >= value(fresh, chosen["geometric"]) - spread
    assert mean_cost(fresh, chosen["optimal"]) <= 1.05 * budget


def test_a_useless_exit_is_skipped_which_geometric_shares_cannot():
    """The second exit adds nothing to the first; the budget is best spent without it."""
    chances = synthetic(5000, 3)
    chances[1] = chances[0]
    ranked = rank(list(chances))
    cost = lambda thresholds: mean_cost(chances, thresholds)  # noqa: E731
    optimal, _ = bracket(most_accurate(ranked, chances, PRICES[:, None]), cost, 2.5, price_range(PRICES[:, None]))
    paper, _ = bracket(geometric(ranked, 3), cost, 2.5, (-STEEPEST, STEEPEST))
    assert int((choose(list(chances), optimal) == 1).sum()) == 0
    assert value(chances, optimal) > value(chances, paper) + 0.01
