"""Thresholds from scores: an example stops at the first exit where its score reaches the threshold.

The family of the paper: a fraction of the examples proportional to q^k stops at exit k, those with the highest scores
among the remaining ones, and the rest at the last exit. The mean cost grows with q, so a budget determines q.
Huang et al. 2018 (budgeted batch classification); Meronen et al. 2024.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Family = Callable[[float], Tensor]
"""Function from one parameter to thresholds (K − 1,), along which the mean cost grows."""


@dataclass(frozen=True)
class Ranked:
    """Scores (N,) of one exit, sorted once for many cuts.

    Attributes:
        order: Indices (N,) of the examples from the highest score to the lowest, int64.
        values: Scores (N,) in that order, falling.
        first: First rank (N,) with the same score, int64.
        last: Last rank (N,) with the same score, int64.
    """

    order: Tensor
    values: Tensor
    first: Tensor
    last: Tensor


def rank(values: Sequence[Tensor]) -> list[Ranked]:
    """Sort the scores (N,) of every exit."""
    ranked = []
    for scores in values:
        falling, order = scores.sort(descending=True)
        _, counts = falling.unique_consecutive(return_counts=True)
        ends = counts.cumsum(0)
        first, last = (bounds.repeat_interleave(counts) for bounds in (ends - counts, ends - 1))
        ranked.append(Ranked(order, falling, first, last))
    return ranked


def choose(values: Sequence[Tensor], thresholds: Tensor) -> Tensor:
    """Return the exit (N,) at which each example stops, from the scores (N,) of every exit, int64."""
    stops = [scores >= threshold for scores, threshold in zip(values, thresholds.tolist(), strict=False)]
    last = torch.ones_like(values[0], dtype=torch.bool)
    return torch.stack([*stops, last]).to(torch.uint8).argmax(dim=0)


def shares_of(exit_index: Tensor, num_exits: int) -> Tensor:
    """Return the fraction (K,) of the examples that stopped at each exit, float64, from their exits (N,)."""
    return torch.bincount(exit_index.cpu(), minlength=num_exits).double() / len(exit_index)


def geometric_shares(log_q: float, num_exits: int) -> Tensor:
    """Return shares (K,) proportional to q^k, k = 1 … K, float64."""
    return (log_q * torch.arange(num_exits, dtype=torch.float64)).softmax(dim=0)


def thresholds_for(ranked: Sequence[Ranked], shares: Tensor) -> Tensor:
    """Compute thresholds (K − 1,) at which each exit stops its share of all examples, by the highest scores remaining.

    A threshold lies midway between the last example that stops and the first that continues. Examples with equal scores
    stop or continue together, whichever is nearer to the share. The next exit makes up for the difference, as it aims
    at the cumulative share.

    Args:
        ranked: Sorted scores of K or K − 1 exits.
        shares: Shares (K,), summing to 1.
    """
    n = len(ranked[0].order)
    remaining = torch.ones(n, dtype=torch.bool, device=ranked[0].order.device)
    thresholds, num_stopped = [], 0
    for exit_, aim in zip(ranked, shares.cumsum(0)[:-1].tolist(), strict=False):
        present = remaining.index_select(0, exit_.order).cumsum(0, dtype=torch.int32)
        num_stops = nearest_cut(exit_, present, round(aim * n) - num_stopped)
        thresholds.append(cut(exit_, present, num_stops))
        remaining.index_fill_(0, exit_.order[: _rank_of(present, num_stops) + 1 if num_stops else 0], False)
        num_stopped += num_stops
    return torch.tensor(thresholds, dtype=torch.float64)


def nearest_cut(exit_: Ranked, present: Tensor, target: int) -> int:
    """Return the number of examples nearest to `target` that can stop without separating equal scores.

    Args:
        exit_: Sorted scores of the exit.
        present: Number (N,) of remaining examples up to and including each rank.
        target: Number of remaining examples that should stop.
    """
    target = max(0, min(target, int(present[-1])))
    if target == 0:
        return 0
    at = _rank_of(present, target)
    start = int(exit_.first[at])
    above, through = int(present[start - 1]) if start else 0, int(present[exit_.last[at]])
    return through if through - target <= target - above else above


def cut(exit_: Ranked, present: Tensor, num_stops: int) -> float:
    """Return the threshold at which the `num_stops` highest remaining scores stop; ±inf where none or all do."""
    if num_stops == 0:
        return float("inf")
    if num_stops == int(present[-1]):
        return float("-inf")
    last, first = (float(exit_.values[_rank_of(present, count)]) for count in (num_stops, num_stops + 1))
    middle = last / 2 + first / 2
    return middle if first < middle else last


def _rank_of(present: Tensor, count: int) -> int:
    """Return the first rank up to which, itself included, `count` examples remain."""
    return int(torch.searchsorted(present, present.new_tensor(count)))


def geometric(ranked: Sequence[Ranked], num_exits: int) -> Family:
    """Return the family of the paper in log q, from `-STEEPEST` to `STEEPEST`."""
    return lambda log_q: thresholds_for(ranked, geometric_shares(log_q, num_exits))


STEEPEST = 50.0
"""|log q| at which all examples stop at the first or at the last exit."""


def bracket(family: Family, cost: Callable[[Tensor], float], budget: float, ends: tuple[float, float]) -> list[Tensor]:
    """Find the two members of a family between which the budget lies, by bisection.

    Args:
        family: Thresholds along a parameter.
        cost: Mean cost of thresholds, growing with the parameter.
        budget: Mean cost to reach. If both ends cost less, the more expensive thresholds are those of the upper end.
        ends: Range of the parameter.

    Returns:
        Thresholds (K − 1,) of the cheaper and of the more expensive side.
    """
    low, high = ends
    under, over = family(low), family(high)
    for _ in range(50):
        middle = (low + high) / 2
        thresholds = family(middle)
        if cost(thresholds) <= budget:
            low, under = middle, thresholds
        else:
            high, over = middle, thresholds
    return [under, over]
