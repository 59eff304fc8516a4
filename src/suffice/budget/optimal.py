"""Thresholds that get the most expected accuracy out of a budget, with no assumption on the shares.

With c_k(x) the calibrated probability that the answer of exit k is right and m_k the cost of stopping there, a
price λ of one unit of cost makes a budget into a trade: over the thresholds θ, maximise

    J(θ) = mean over examples of c_e(x) − λ m_e,    e = the exit where the example stops under θ

Given all other thresholds, the best θ_k is exact: sort the examples that reach exit k by their score there, and
cut where the running sum of what stopping gains over going on, (c_k − λ m_k) − (c_e' − λ m_e'), is greatest.
The thresholds are set so from the last exit to the first, then in turn until J no longer rises. A lower λ buys
more accuracy for more cost, so a budget determines λ. No label is used.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from suffice.budget.thresholds import Family, Ranked, cut

_SWEEPS = 20
"""Rounds over the thresholds at most; a few are usual."""


def most_accurate(ranked: Sequence[Ranked], chances: Tensor, prices: Tensor) -> Family:
    """The family in −log λ, along which the mean cost grows.

    Args:
        ranked: sorted scores of K or K − 1 exits.
        chances: (K, N), probability that the answer of each exit is right, float64.
        prices: (K,), cost of an example that stops at each exit, float64.
    """
    return lambda minus_log: best(ranked, chances - prices[:, None] * math.exp(-minus_log))


def ends(prices: Tensor) -> tuple[float, float]:
    """Range of −log λ: from a price at which all stop first to one at which cost hardly matters."""
    least, span = float(prices.diff().min()), float(prices[-1] - prices[0])
    return -math.log(2 / least), -math.log(1e-6 / span)


def best(ranked: Sequence[Ranked], gains: Tensor) -> Tensor:
    """Thresholds (K − 1,) under which the mean gain of the exits where examples stop is greatest.

    Args:
        ranked: sorted scores of K or K − 1 exits.
        gains: (K, N), what stopping at each exit is worth for each example.
    """
    thresholds = torch.full((len(gains) - 1,), torch.inf, dtype=torch.float64)
    stops = torch.zeros(gains[:-1].shape, dtype=torch.bool, device=gains.device)
    reached = -torch.inf
    for _ in range(_SWEEPS):
        onward = gains[-1]
        for k in reversed(range(len(thresholds))):
            here = ~stops[:k].any(dim=0)
            thresholds[k] = _best_cut(ranked[k], here, gains[k] - onward)
            stops[k].index_copy_(0, ranked[k].order, ranked[k].values >= thresholds[k])
            onward = torch.where(stops[k], gains[k], onward)
        if float(onward.mean()) <= reached + 1e-12:
            break
        reached = float(onward.mean())
    return thresholds


def _best_cut(exit_: Ranked, here: Tensor, surplus: Tensor) -> float:
    """Threshold that takes the greatest sum of surplus (N,) among the examples that are here (N,) bool."""
    present = here[exit_.order]
    if not bool(present.any()):
        return float("inf")
    sums = (surplus[exit_.order] * present).cumsum(0)
    whole = sums[exit_.last]  # equal scores stop together
    best, at = whole.max(dim=0)
    counts = present.cumsum(0)
    return cut(exit_, counts, int(counts[exit_.last[at]]) if best > 0 else 0)
