import pytest
import torch

from suffice.budget.thresholds.families import choose
from suffice.budget.thresholds.mixture import TOLERANCE, mix

COSTS = torch.tensor([1.0, 3.0, 10.0], dtype=torch.float64)


def mean_cost(exit_index):
    return float(COSTS[exit_index].mean())


def tied(seed, examples=40):
    """Return scores with only three values at each exit, and a coin for each example."""
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.randint(3, (examples,), generator=generator).double() for _ in range(3)]
    return scores, torch.rand(examples, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("part", [0.1, 0.37, 0.5, 0.9])
def test_no_other_portion_comes_nearer_to_the_budget(seed, part):
    scores, coin = tied(seed)
    pair = [torch.tensor([1.0, 1.0]), torch.tensor([2.0, 2.0])]
    exits = [choose(scores, thresholds) for thresholds in pair]
    low, high = map(mean_cost, exits)
    budget = low + part * (high - low)

    mixture = mix(scores, coin, pair, mean_cost, budget)

    cuts = [0.0, *coin.sort().values.tolist(), 1.0]
    each = [mean_cost(torch.where(coin < cut, *exits)) for cut in cuts]
    assert abs(mean_cost(mixture.exit_index) - budget) <= min(abs(cost - budget) for cost in each) + 1e-9
    assert torch.equal(mixture.exit_index, torch.where(coin < mixture.portion, *exits))
    assert torch.equal(mixture.thresholds, pair[1])
    assert torch.equal(mixture.alternative, pair[0])


@pytest.mark.parametrize("side", [0, 1])
def test_a_set_that_is_near_enough_is_used_alone(side):
    scores, coin = tied(0)
    pair = [torch.tensor([1.0, 1.0]), torch.tensor([2.0, 2.0])]
    exit_index = choose(scores, pair[side])
    mixture = mix(scores, coin, pair, mean_cost, mean_cost(exit_index) * (1 + (1 - 2 * side) * TOLERANCE / 2))
    assert torch.equal(mixture.thresholds, pair[side])
    assert torch.equal(mixture.exit_index, exit_index)
    assert mixture.alternative is None


@pytest.mark.parametrize("side", [0, 1])
def test_a_set_that_is_nearer_than_every_mixture_is_used_alone(side):
    """The distance is a quarter of what one of eight examples can change, which is more than the tolerance."""
    scores, coin = tied(0, examples=8)
    pair = [torch.tensor([1.0, 1.0]), torch.tensor([2.0, 2.0])]
    exit_index = choose(scores, pair[side])
    budget = mean_cost(exit_index) + (1 - 2 * side) * float(COSTS[1] - COSTS[0]) / 8 / 4
    assert abs(mean_cost(exit_index) - budget) > TOLERANCE * budget
    mixture = mix(scores, coin, pair, mean_cost, budget)
    assert torch.equal(mixture.thresholds, pair[side])
    assert torch.equal(mixture.exit_index, exit_index)
    assert mixture.alternative is None


def test_a_budget_beyond_both_sets_uses_the_more_expensive_one():
    scores, coin = tied(0)
    pair = [torch.tensor([1.0, 1.0]), torch.tensor([2.0, 2.0])]
    mixture = mix(scores, coin, pair, mean_cost, 100.0)
    assert torch.equal(mixture.thresholds, pair[1])
    assert mixture.alternative is None


def test_examples_with_equal_coins_cannot_be_separated():
    scores, _ = tied(0)
    pair = [torch.tensor([1.0, 1.0]), torch.tensor([2.0, 2.0])]
    low, high = (mean_cost(choose(scores, thresholds)) for thresholds in pair)
    mixture = mix(scores, torch.full((40,), 0.5, dtype=torch.float64), pair, mean_cost, low + 0.8 * (high - low))
    assert mixture.alternative is None
    assert torch.equal(mixture.thresholds, pair[1])
