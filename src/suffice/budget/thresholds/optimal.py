"""Thresholds with the greatest expected accuracy for a budget, without an assumption on the shares.

With c_k(x) the calibrated probability that the prediction of exit k is correct, m_k(x) the cost of stopping there and
λ the price of one unit of cost, maximize over the thresholds θ

    J(θ) = mean over examples of c_e(x) − λ m_e(x),    e = the exit where the example stops under θ

Given all other thresholds, the best θ_k is exact: sort the examples that reach exit k by their score there, and cut
where the running sum of the gain of stopping over continuing, (c_k − λ m_k) − (c_e' − λ m_e'), is greatest. The
thresholds are set in this way from the last exit to the first, and again until J no longer rises. A lower λ gives more
accuracy at a higher cost, so a budget determines λ. No label is used.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from suffice.budget.thresholds.families import Family, Ranked, cut

_SWEEPS = 20
"""Greatest number of rounds over the thresholds; a few are usual."""


def most_accurate(ranked: Sequence[Ranked], chances: Tensor, prices: Tensor) -> Family:
    """Return the thresholds as a function of −log λ, along which the mean cost grows.

    Args:
        ranked: Sorted scores of K or K − 1 exits.
        chances: Probability (K, N) that the prediction of each exit is correct, float64.
        prices: Cost (K, N) of each example if it stops at each exit, or (K, 1) for all alike, float64.
    """
    return lambda minus_log: best_thresholds(ranked, chances - prices * math.exp(-minus_log))


def price_range(prices: Tensor) -> tuple[float, float]:
    """Return the range of −log λ: from a price at which all stop at once to one at which cost hardly matters."""
    least, span = float(prices.diff(dim=0).min()), float((prices[-1] - prices[0]).max())
    return -math.log(2 / least), -math.log(1e-6 / span)


def best_thresholds(ranked: Sequence[Ranked], gains: Tensor) -> Tensor:
    """Compute the thresholds (K − 1,) with the greatest mean gain of the exits where examples stop.

    Args:
        ranked: Sorted scores of K or K − 1 exits.
        gains: Gain (K, N) of stopping at each exit, for each example.
    """
    thresholds = torch.full((len(gains) - 1,), torch.inf, dtype=torch.float64)
    stops = torch.zeros(gains[:-1].shape, dtype=torch.bool, device=gains.device)
    best_mean = -torch.inf
    for _ in range(_SWEEPS):
        onward = gains[-1]
        for k in reversed(range(len(thresholds))):
            reaches = ~stops[:k].any(dim=0)
            thresholds[k] = _best_cut(ranked[k], reaches, gains[k] - onward)
            stops[k].index_copy_(0, ranked[k].order, ranked[k].values >= thresholds[k])
            onward = torch.where(stops[k], gains[k], onward)
        if float(onward.mean()) <= best_mean + 1e-12:
            break
        best_mean = float(onward.mean())
    return thresholds


def _best_cut(exit_: Ranked, reaches: Tensor, surplus: Tensor) -> float:
    """Return the threshold with the greatest sum of surplus (N,) over the examples that reach the exit and stop there.

    Args:
        exit_: Sorted scores of the exit.
        reaches: Whether each example reaches the exit, (N,) bool.
        surplus: Gain (N,) of stopping over continuing.
    """
    present = reaches[exit_.order]
    if not bool(present.any()):
        return float("inf")
    sums = (surplus[exit_.order] * present).cumsum(0)
    tied_sums = sums[exit_.last]  # equal scores stop together
    greatest, at = tied_sums.max(dim=0)
    counts = present.cumsum(0)
    return cut(exit_, counts, int(counts[exit_.last[at]]) if greatest > 0 else 0)
