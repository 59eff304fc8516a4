"""Conformal band around an estimated spread, with stated coverage of the measured one (split conformal prediction).

From n calibration rows that were neither fitted nor selected on, r = log(s/ŝ), with s measured over T passes as the
labels were. For a new row like them and coverage 1 − α

    s ∈ [ŝ exp r₍ₗ₎, ŝ exp r₍ᵤ₎],    l = ⌊(n + 1) α/2⌋,  u = ⌈(n + 1)(1 − α/2)⌉

with probability at least 1 − α. The band covers the spread that T passes measure, noise included; the true spread
varies less.
"""

import math

import torch
from torch import Tensor


def residuals(measured: Tensor, estimate: Tensor) -> Tensor:
    """Return the sorted residuals r (n,) float64 of measured and estimated spreads (n,)."""
    return (measured.double().log() - estimate.double().log()).sort().values


def band(residual: Tensor, estimate: Tensor, coverage: float) -> tuple[Tensor, Tensor]:
    """Return the lower and the upper bound (N,) of the band around estimated spreads (N,).

    Args:
        residual: Sorted residuals (n,), from `residuals`.
        estimate: Estimated spreads ŝ, (N,).
        coverage: Coverage 1 − α, in (0, 1).

    Raises:
        ValueError: For a coverage outside (0, 1), or one that so few calibration rows cannot guarantee.
    """
    if not 0 < coverage < 1:
        raise ValueError(f"expected a coverage in (0, 1), got {coverage}")
    n, tail = len(residual), (1 - coverage) / 2
    low, high = math.floor((n + 1) * tail + 1e-9), math.ceil((n + 1) * (1 - tail) - 1e-9)
    if low < 1 or high > n:
        raise ValueError(
            f"expected a coverage that {n} calibration rows can guarantee, which is at most "
            f"{max(0.0, 1 - 2 / (n + 1)):.4f}, got {coverage}: pass more validation rows"
        )
    factors = torch.stack([residual[low - 1], residual[high - 1]]).exp().to(estimate)
    return estimate * factors[0], estimate * factors[1]
