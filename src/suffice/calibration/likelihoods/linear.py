"""Bayesian linear regression on an exit's features: noise and prior precision of maximum evidence.

With Φ (n, D) the features and a prior N(0, I/δ) on the weights of each output c,

    y_c ~ N(0, σ_c² I + ΦΦᵀ/δ)

is maximized over all σ_c² and one δ by MacKay's fixed-point iteration. In the eigenbasis of ΦᵀΦ = R diag(g) Rᵀ, with
m_c the ridge solution for λ_c = δσ_c²,

    γ_c = Σ_i g_i/(g_i + λ_c),   δ ← Σ_c γ_c / Σ_c ‖m_c‖²,   σ_c² ← ‖y_c − Φm_c‖² / (n − γ_c)

where γ_c is the effective number of weights that the data determine. The sums are over the residuals r = y − f of the
network's outputs and not over y, because targets far from zero would cancel. MacKay 1992; Bishop 2006, section 3.5.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TOLERANCE = 1e-9
"""Relative change of σ² and δ in one step at which the iteration has converged."""

_STEPS = 2000

_DETERMINED = 1e-6
"""Effective number of weights below which the features explain nothing and δ would grow without bound."""

_LEAST_NOISE = 1e-6
"""Smallest σ relative to the range of the targets, for networks that fit all targets exactly."""


@dataclass(frozen=True)
class Statistics:
    """Sums over examples, float64, with the range of the targets; they merge by addition, minimum and maximum.

    Attributes:
        features: Sum Σ φφᵀ, (D, D).
        cross: Sum Σ φ rᵀ, (D, C).
        squares: Sum Σ r², (C,).
        low: Smallest target, (C,).
        high: Largest target, (C,).
        count: Number of examples n.
    """

    features: Tensor
    cross: Tensor
    squares: Tensor
    low: Tensor
    high: Tensor
    count: int


def init(features: int, outputs: int, device: torch.device | str = "cpu") -> Statistics:
    """Return zero sums for features of width `features`, the constant of a bias included."""
    options: dict[str, Any] = {"dtype": torch.float64, "device": device}
    return Statistics(
        torch.zeros(features, features, **options),
        torch.zeros(features, outputs, **options),
        torch.zeros(outputs, **options),
        torch.full((outputs,), torch.inf, **options),
        torch.full((outputs,), -torch.inf, **options),
        0,
    )


def update(statistics: Statistics, phi: Tensor, outputs: Tensor, targets: Tensor) -> Statistics:
    """Add one batch: phi (N, D), outputs and targets (N, C)."""
    phi, targets = phi.double(), targets.double()
    residuals = targets - outputs.double()
    batch = Statistics(
        phi.T @ phi,
        phi.T @ residuals,
        residuals.square().sum(dim=0),
        targets.amin(dim=0),
        targets.amax(dim=0),
        len(phi),
    )
    return merge(statistics, batch)


def merge(a: Statistics, b: Statistics) -> Statistics:
    """Merge the statistics of two disjoint sets of examples."""
    return Statistics(
        a.features + b.features,
        a.cross + b.cross,
        a.squares + b.squares,
        torch.minimum(a.low, b.low),
        torch.maximum(a.high, b.high),
        a.count + b.count,
    )


def maximize(
    statistics: Statistics, weights: Tensor, start: float, class_precision: Tensor | None = None
) -> tuple[Tensor, float]:
    """Find the noise variance and the prior precision of maximum evidence.

    Args:
        statistics: Sums over n examples; n may be smaller than D.
        weights: Weights W (C, D) of the classifier that computed the outputs, its bias as the last column.
        start: Initial prior precision δ.
        class_precision: Prior precisions of the outputs' weights relative to δ, (C,) (default: all 1).

    Returns:
        The noise variances σ² (C,), float64, and the prior precision δ.

    Raises:
        ValueError: If all targets of an output are equal, so that its noise is not defined.
    """
    _check_varying(statistics)
    n = statistics.count
    g, R = torch.linalg.eigh(statistics.features)
    g = g.clamp_min(0)[:, None]
    rotated, cross = R.T @ weights.double().T, R.T @ statistics.cross
    least_noise = ((statistics.high - statistics.low) * _LEAST_NOISE).square()
    noise = torch.maximum(statistics.squares / n, least_noise)
    relative = torch.ones_like(noise) if class_precision is None else class_precision.to(noise)
    delta = torch.as_tensor(start, dtype=torch.float64, device=g.device)
    for _ in range(_STEPS):
        ridge = relative * delta * noise
        shift = (cross - ridge * rotated) / (g + ridge)  # m − W, in the eigenbasis
        determined = (g / (g + ridge)).sum(dim=0)
        squares = statistics.squares - 2 * (shift * cross).sum(dim=0) + (g * shift.square()).sum(dim=0)
        before = torch.cat([noise, delta[None]])
        delta = determined.sum() / (relative * (rotated + shift).square()).sum().clamp_min(1e-30)
        noise = torch.maximum(squares / (n - determined).clamp_min(1e-9), least_noise)
        change = torch.cat([noise, delta[None]]) / before - 1
        if bool((change.abs() < TOLERANCE).all()) or float(determined.sum()) < _DETERMINED:
            break
    return noise, float(delta)


def _check_varying(statistics: Statistics) -> None:
    constant = (statistics.low == statistics.high).nonzero()
    if len(constant):
        output = int(constant[0])
        raise ValueError(
            f"expected training targets that vary, got {float(statistics.low[output]):g} for output {output} in all "
            f"{statistics.count} examples; leave the output out"
        )
