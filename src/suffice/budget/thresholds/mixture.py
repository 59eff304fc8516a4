"""Mixed policies: two sets of thresholds, where tied scores keep every single set away from the budget.

A coin, computed from each example's own bytes, selects one of the two sets: the cheaper set is used for a portion of
the examples, so that the mean cost lies between those of the sets, at the budget.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from suffice.budget.thresholds.families import choose

TOLERANCE = 0.005
"""Relative distance of the mean validation cost from the budget up to which no mixture and no warning is made."""


@dataclass(frozen=True)
class Mix:
    """One set of thresholds or two, with the exits where the validation examples stop.

    Attributes:
        thresholds: Thresholds (K − 1,).
        exit_index: Exit (N,) where each validation example stops, int64.
        alternative: Second thresholds (K − 1,), used for examples with a coin below `portion`, or None.
        portion: Fraction of the examples that `alternative` is used for.
    """

    thresholds: Tensor
    exit_index: Tensor
    alternative: Tensor | None = None
    portion: float = 0.0


def mix(
    scores: Sequence[Tensor], coin: Tensor, pair: Sequence[Tensor], mean_cost: Callable[[Tensor], float], budget: float
) -> Mix:
    """Return the nearer of two sets of thresholds if it is near enough, else a mixture that meets the budget.

    Args:
        scores: Scores (N,) of the validation data at each of K exits.
        coin: Number (N,) in [0, 1) of each validation example.
        pair: Thresholds (K − 1,) on either side of the budget, the cheaper first.
        mean_cost: Function from the exits (N,) where the examples stop to the mean cost per example.
        budget: Mean cost per example to reach, in the same unit.
    """
    exit_index = [choose(scores, thresholds) for thresholds in pair]
    costs = list(map(mean_cost, exit_index))
    nearer = min(range(2), key=lambda side: abs(costs[side] - budget))
    if abs(costs[nearer] - budget) <= TOLERANCE * budget or costs[1] <= budget:
        nearer = 1 if costs[1] <= budget else nearer
        return Mix(pair[nearer], exit_index[nearer])

    def mixed(portion: float) -> Tensor:
        return torch.where(coin < portion, exit_index[0], exit_index[1])

    separating_coins = coin[exit_index[0] != exit_index[1]]
    portion = _nearest_portion(separating_coins, lambda portion: mean_cost(mixed(portion)), budget)
    if portion in (0, 1):
        return Mix(pair[nearer], exit_index[nearer])
    return Mix(pair[1], mixed(portion), pair[0], portion)


def _nearest_portion(coins: Tensor, realized_cost: Callable[[float], float], budget: float) -> float:
    """Return the portion for the cheaper thresholds at which the realized cost is nearest to the budget.

    The cost changes only at `coins`, the coins of examples that stop at different exits under the two sets.
    """
    ordered = coins.unique()
    edges = torch.cat([coins.new_zeros(1), (ordered[1:] + ordered[:-1]) / 2, coins.new_ones(1)]).tolist()
    low, high = 0, len(edges) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if realized_cost(edges[middle]) <= budget else (middle, high)
    return float(edges[min(low, high, key=lambda at: abs(realized_cost(edges[at]) - budget))])
