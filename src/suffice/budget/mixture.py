"""Two sets of thresholds in one policy, where tied scores keep every single set off the budget.

A coin, made of each example's own bytes, says which of the two judges it: a portion of the examples goes by the
cheaper set, so that the mean cost lies between theirs, at the budget.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from suffice.budget.thresholds import choose, shares_of

TOLERANCE = 0.005
"""Relative distance of the mean validation cost from the budget that is neither mended nor warned of."""


@dataclass(frozen=True)
class Mix:
    """One set of thresholds, or two.

    Attributes:
        thresholds: (K − 1,).
        shares: (K,), share of the validation data answered at each exit.
        alternative: (K − 1,), thresholds of the examples whose coin is below `portion`, or None.
        portion: of the examples judged by `alternative`.
    """

    thresholds: Tensor
    shares: Tensor
    alternative: Tensor | None = None
    portion: float = 0.0


def mix(
    scores: Sequence[Tensor], coin: Tensor, pair: Sequence[Tensor], mean_cost: Callable[[Tensor], float], budget: float
) -> Mix:
    """The nearer of two sets of thresholds where it is near enough, else a mixture that meets the budget.

    Args:
        scores: of the validation data at every exit, K × (N,).
        coin: of each validation example, (N,) in [0, 1).
        pair: thresholds (K − 1,) on either side of the budget, the cheaper first.
        mean_cost: of shares (K,).
        budget: in the unit of the cost.
    """
    exits = [choose(scores, found) for found in pair]
    shares = [shares_of(taken, len(scores)) for taken in exits]
    costs = [mean_cost(each) for each in shares]
    nearer = min(range(2), key=lambda side: abs(costs[side] - budget))
    if abs(costs[nearer] - budget) <= TOLERANCE * budget or costs[1] <= budget:
        nearer = 1 if costs[1] <= budget else nearer
        return Mix(pair[nearer], shares[nearer])

    def tossed(portion: float) -> Tensor:
        return shares_of(torch.where(coin < portion, exits[0], exits[1]), len(scores))

    cheap = _portion(coin[exits[0] != exits[1]], lambda portion: mean_cost(tossed(portion)), budget)
    if cheap in (0, 1):
        return Mix(pair[nearer], shares[nearer])
    return Mix(pair[1], tossed(cheap), pair[0], cheap)


def _portion(coins: Tensor, realized: Callable[[float], float], budget: float) -> float:
    """The portion for the cheaper thresholds at which the realised cost is nearest to the budget.

    Only portions between two of `coins`, those of examples that the two sets judge differently, cost differently.
    """
    ordered = coins.unique()
    edges = torch.cat([coins.new_zeros(1), (ordered[1:] + ordered[:-1]) / 2, coins.new_ones(1)]).tolist()
    low, high = 0, len(edges) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if realized(edges[middle]) <= budget else (middle, high)
    return float(edges[min(low, high, key=lambda at: abs(realized(edges[at]) - budget))])
