"""Bayesian linear regression on an exit's features: noise and prior by their evidence.

With Φ (n, D) the features and a prior N(0, I/δ) on the weights of each output c,

    y_c ~ N(0, σ_c² I + ΦΦᵀ/δ)

is maximised over all σ_c² and one δ by MacKay's fixed point. In the eigenbasis of ΦᵀΦ = R diag(g) Rᵀ, with m_c the
ridge solution for λ_c = δσ_c²,

    γ_c = Σ_i g_i/(g_i + λ_c),   δ ← Σ_c γ_c / Σ_c ‖m_c‖²,   σ_c² ← ‖y_c − Φm_c‖² / (n − γ_c)

γ_c being the number of weights that the data determine. Sums are of the residuals r = y − f of the network's own
answers, not of y: a target far from zero would cancel. MacKay 1992; Bishop 2006, section 3.5.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TOLERANCE = 1e-9
"""Relative change of σ² and δ in a step below which they have settled."""

_STEPS = 2000

_DETERMINED = 1e-6
"""Weights that the data determine, below which features explain nothing, and δ would grow without end."""

_LEAST_NOISE = 1e-6
"""Least σ as a share of the range of the targets: a network may go through all of them."""


@dataclass(frozen=True)
class Statistics:
    """Sums over examples, float64; merge by adding.

    Attributes:
        features: Σ φφᵀ, (D, D).
        cross: Σ φ rᵀ, (D, C).
        squares: Σ r², (C,).
        low: the least target, (C,), and
        high: the greatest, merged as such.
        count: n, the examples seen.
    """

    features: Tensor
    cross: Tensor
    squares: Tensor
    low: Tensor
    high: Tensor
    count: int


def init(features: int, outputs: int, device: torch.device | str = "cpu") -> Statistics:
    """Statistics of no example, for φ of width `features` (its constant 1 for a bias included)."""
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
    """Statistics of the examples of both."""
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
    """σ² (C,), float64, and δ of greatest evidence.

    Args:
        statistics: of n examples; n < D is no trouble.
        weights: W (C, D) of the classifier that answered, its bias as the last column.
        start: δ to begin with.
        class_precision: prior precisions of the outputs' weights relative to δ, (C,); None for 1.

    Raises:
        ValueError: if the targets of an output are all the same, so that they have no noise to speak of.
    """
    _check_varying(statistics)
    n = statistics.count
    g, R = torch.linalg.eigh(statistics.features)
    g = g.clamp_min(0)[:, None]
    own, cross = R.T @ weights.double().T, R.T @ statistics.cross
    least = ((statistics.high - statistics.low) * _LEAST_NOISE).square()
    noise = torch.maximum(statistics.squares / n, least)
    relative = torch.ones_like(noise) if class_precision is None else class_precision.to(noise)
    delta = torch.as_tensor(start, dtype=torch.float64, device=g.device)
    for _ in range(_STEPS):
        ridge = relative * delta * noise
        shift = (cross - ridge * own) / (g + ridge)  # m − W, in the eigenbasis
        determined = (g / (g + ridge)).sum(dim=0)
        squares = statistics.squares - 2 * (shift * cross).sum(dim=0) + (g * shift.square()).sum(dim=0)
        before = torch.cat([noise, delta[None]])
        delta = determined.sum() / (relative * (own + shift).square()).sum().clamp_min(1e-30)
        noise = torch.maximum(squares / (n - determined).clamp_min(1e-9), least)
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
