"""Thresholds from scores: an example stops at the first exit whose score reaches the exit's threshold.

The paper's family: exit k answers a share proportional to q^k of the examples, the surest of those still there,
and the last exit takes the rest. The mean cost grows with q, so a budget determines q.
Huang et al. 2018 (budgeted batch classification); Meronen et al. 2024.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Family = Callable[[float], Tensor]
"""Thresholds (K − 1,) for each value of one parameter, along which the mean cost grows."""


@dataclass(frozen=True)
class Ranked:
    """The scores (N,) of one exit, sorted once for many cuts.

    Attributes:
        order: (N,), examples from the highest score to the lowest, int64.
        values: (N,), their scores, falling.
        first: (N,), the first rank with the same score, int64.
        last: (N,), the last rank with the same score, int64.
    """

    order: Tensor
    values: Tensor
    first: Tensor
    last: Tensor


def rank(values: Sequence[Tensor]) -> list[Ranked]:
    """Scores (N,) of every exit, each sorted."""
    ranked = []
    for scores in values:
        falling, order = scores.sort(descending=True)
        _, counts = falling.unique_consecutive(return_counts=True)
        ends = counts.cumsum(0)
        first, last = (bounds.repeat_interleave(counts) for bounds in (ends - counts, ends - 1))
        ranked.append(Ranked(order, falling, first, last))
    return ranked


def choose(values: Sequence[Tensor], thresholds: Tensor) -> Tensor:
    """Exit (N,) at which each example stops, from the scores (N,) of every exit, int64."""
    stops = [v >= t for v, t in zip(values, thresholds.tolist(), strict=False)]
    last = torch.ones_like(values[0], dtype=torch.bool)
    return torch.stack([*stops, last]).to(torch.uint8).argmax(dim=0)


def shares_of(exits: Tensor, count: int) -> Tensor:
    """Share (count,) of the examples that stopped at each exit, float64, from their exits (N,)."""
    return torch.bincount(exits.cpu(), minlength=count).double() / len(exits)


def geometric_shares(log_q: float, exits: int) -> Tensor:
    """Shares (exits,) proportional to q^k, k = 1 … K, float64."""
    return (log_q * torch.arange(exits, dtype=torch.float64)).softmax(dim=0)


def thresholds_for(ranked: Sequence[Ranked], shares: Tensor) -> Tensor:
    """Thresholds (K − 1,) at which each exit answers its share of all examples, the surest still there.

    A threshold lies midway between the last example that stops and the first that goes on. Examples with
    equal scores stop or go on together, by the side that is nearer to the share; what an exit takes too much
    or too little is made good at the next, whose aim is the cumulative share.

    Args:
        ranked: K or K − 1 sorted scores, one for each exit.
        shares: (K,), summing to 1.
    """
    n = len(ranked[0].order)
    here = torch.ones(n, dtype=torch.bool, device=ranked[0].order.device)
    thresholds, stopped = [], 0
    for exit_, aim in zip(ranked, shares.cumsum(0)[:-1].tolist(), strict=False):
        present = here.index_select(0, exit_.order).cumsum(0, dtype=torch.int32)
        stop = nearest_cut(exit_, present, round(aim * n) - stopped)
        thresholds.append(cut(exit_, present, stop))
        here.index_fill_(0, exit_.order[: _rank_of(present, stop) + 1 if stop else 0], False)
        stopped += stop
    return torch.tensor(thresholds, dtype=torch.float64)


def nearest_cut(exit_: Ranked, present: Tensor, wanted: int) -> int:
    """How many stop where about `wanted` are to: equal scores together, on the nearer side.

    Args:
        exit_: the sorted scores.
        present: (N,), how many of the examples up to and with each rank are still there.
        wanted: to stop, of those still there.
    """
    wanted = max(0, min(wanted, int(present[-1])))
    if wanted == 0:
        return 0
    at = _rank_of(present, wanted)
    start = int(exit_.first[at])
    above, through = int(present[start - 1]) if start else 0, int(present[exit_.last[at]])
    return through if through - wanted <= wanted - above else above


def cut(exit_: Ranked, present: Tensor, stop: int) -> float:
    """Threshold at which the `stop` surest of those still there stop; ±inf where none or all do."""
    if stop == 0:
        return float("inf")
    if stop == int(present[-1]):
        return float("-inf")
    last, first = (float(exit_.values[_rank_of(present, count)]) for count in (stop, stop + 1))
    middle = last / 2 + first / 2
    return middle if first < middle else last


def _rank_of(present: Tensor, count: int) -> int:
    """The first rank up to and with which `count` are still there."""
    return int(torch.searchsorted(present, present.new_tensor(count)))


def geometric(ranked: Sequence[Ranked], exits: int) -> Family:
    """The paper's family in log q, from `-STEEPEST` to `STEEPEST`."""
    return lambda log_q: thresholds_for(ranked, geometric_shares(log_q, exits))


STEEPEST = 50.0
"""|log q| at which all examples stop at the first or at the last exit."""


def bracket(family: Family, cost: Callable[[Tensor], float], budget: float, ends: tuple[float, float]) -> list[Tensor]:
    """The two thresholds of a family between which the budget lies, by bisection: cheaper and dearer.

    Args:
        family: thresholds along a parameter.
        cost: mean cost of thresholds, growing with the parameter.
        budget: to be met. If both ends cost less than it, the dearer is the upper end.
        ends: of the parameter.
    """
    low, high = ends
    under, over = family(low), family(high)
    for _ in range(50):
        middle = (low + high) / 2
        found = family(middle)
        if cost(found) <= budget:
            low, under = middle, found
        else:
            high, over = middle, found
    return [under, over]
