"""Inverses of diag(γ) + τU for all τ ≥ 0, interpolated between a few dozen nodes; U is diagonal plus low rank.

In s = ln(1 + τ u_max), with u_max at least the largest eigenvalue of U relative to γ, every 1/(1 + τu) is smooth for
any u: no pole is closer than π to the real axis. So nodes that are equally spaced in s, and the polynomial through the
nearest dozen of them, give every resolvent with a relative error of 1e-8.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_STEP = 0.25
"""Distance between neighboring nodes in s."""

_NEIGHBORS = 12
"""Number of nodes of a polynomial; few enough that its terms barely cancel in float32."""

GRID = 64
"""Number of eigenvalues of U at which functions of U are evaluated."""


@dataclass(frozen=True)
class Resolvent:
    """Resolvent B(τ) = (diag(γ) + τU)⁻¹ = E + τF K⁻¹ Fᵀ by Woodbury, E diagonal.

    With E = (diag(γ) + τT)⁻¹, β = 1 − υ, F = E T^½ Q |β|^½ and K = sgn(β) υ + |β|^½ QᵀEγQ |β|^½, a sum; the usual
    form, I − QᵀτTEQ in place of QᵀEγQ, is a small difference of large numbers, since U1 = 0. τ may be slightly
    negative.

    Attributes:
        tau: Scalar τ.
        diagonal: Diagonal of E, (C,).
        factor: Matrix F, (C, K).
        core: Matrix K, (K, K).
        log_det: Scalar log det(diag(γ) + τU).
    """

    tau: Tensor
    diagonal: Tensor
    factor: Tensor
    core: Tensor
    log_det: Tensor

    @classmethod
    def at(cls, tau: Tensor, gamma: Tensor, t: Tensor, vectors: Tensor, values: Tensor) -> "Resolvent":
        """Compute the resolvent at τ from γ (C,) and U given as t (C,), Q (C, K) and υ (K,)."""
        diagonal, beta = 1 / (gamma + tau * t), 1 - values
        scaled = vectors * beta.abs().sqrt()
        core = torch.diag(torch.where(beta < 0, -values, values)) + scaled.T @ ((diagonal * gamma)[:, None] * scaled)
        log_det = torch.linalg.slogdet(core).logabsdet - diagonal.log().sum()
        return cls(tau, diagonal, (diagonal * t.sqrt())[:, None] * scaled, core, log_det)

    def apply(self, x: Tensor) -> Tensor:
        """Return the product B(τ) x for x (C, M)."""
        inner: Tensor = torch.linalg.solve(self.core, self.factor.T @ x)
        return self.diagonal[:, None] * x + self.tau * self.factor @ inner

    def diagonals(self) -> tuple[Tensor, Tensor]:
        """Return the diagonals (C,) of B and of PBP, P = I − 11ᵀ/C."""
        solved = self.tau * torch.linalg.solve(self.core, self.factor.T)
        plain = self.diagonal + (self.factor * solved.T).sum(dim=1)
        sums = self.diagonal + solved.T @ self.factor.sum(dim=0)
        return plain, plain - 2 * sums / len(sums) + sums.mean() / len(sums)


@dataclass(frozen=True)
class Resolvents:
    """Resolvents B(τ) at the nodes, recomputed at each iteration, and the weights that interpolate between them.

    Attributes:
        nodes: Nodes τ_ν, (V,).
        weights: Interpolation weights (D, V): from the values of a function at the nodes to its value at each τ.
        largest: Upper bound u_max of the eigenvalues of U relative to γ.
        hessian: Precisions γ (C,) and U as t (C,), Q (C, K) and υ (K,).
    """

    nodes: Tensor
    weights: Tensor
    largest: Tensor
    hessian: tuple[Tensor, Tensor, Tensor, Tensor]

    @classmethod
    def between(cls, tau: Tensor, gamma: Tensor, t: Tensor, vectors: Tensor, values: Tensor) -> "Resolvents":
        """Build the interpolation of B(τ) at each τ (D,) ≥ 0, float64; differentiable in τ through its weights."""
        largest = ((t / gamma).max() * values.clamp_min(1).max()).clamp_min(1e-30)
        nodes, weights = interpolation(tau, largest)
        return cls(nodes, weights, largest, (gamma, t, vectors, values))

    @cached_property
    def grid(self) -> Tensor:
        """Eigenvalues u, (J,): 0, and logarithmic steps from where every resolvent is still flat up to the largest."""
        start = -5 - float((self.largest * self.nodes[-1]).log1p())
        relative = torch.linspace(start, 0, GRID - 1, dtype=torch.float64, device=self.nodes.device).exp()
        return torch.cat([relative.new_zeros(1), relative]) * self.largest

    def __iter__(self) -> Iterator[Resolvent]:
        return (Resolvent.at(tau, *self.hessian) for tau in self.nodes)

    def combined(self, weights: Tensor, x: Tensor) -> Tensor:
        """Return the sums Σ_ν weights_νr B(τ_ν) x, (R, C, M), for weights (V, R) and x (C, M)."""
        total = x.new_zeros(weights.shape[1], *x.shape)
        for weight, resolvent in zip(weights, self, strict=True):
            total += weight[:, None, None] * resolvent.apply(x)
        return total

    def rooted(self, x: Tensor) -> Tensor:
        """Return the product Lx for x (C, M), with LLᵀ = U."""
        _, t, vectors, values = self.hessian
        return t.sqrt()[:, None] * (x + vectors @ ((values.sqrt() - 1)[:, None] * (vectors.T @ x)))

    @cached_property
    def diagonals(self) -> tuple[Tensor, Tensor]:
        """Diagonals of the resolvents and of PB(τ)P, P = I − 11ᵀ/C, both (V, C)."""
        plain, centered = zip(*[resolvent.diagonals() for resolvent in self], strict=True)
        return torch.stack(plain), torch.stack(centered)

    @cached_property
    def log_dets(self) -> Tensor:
        """Log-determinants of diag(γ) + τ_ν U, (V,)."""
        return torch.stack([resolvent.log_det for resolvent in self])


def interpolation(tau: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """Return nodes (V,) and the weights (D, V) from values at the nodes to values at each τ (D,); float64.

    The nodes extend below 0 and beyond the largest τ as far as the polynomials require. The weights are
    differentiable in τ, the nodes are not.
    """
    position = (largest * tau).log1p() / _STEP
    first = position.detach().floor().long()
    before, neighbors = _NEIGHBORS // 2 - 1, torch.arange(_NEIGHBORS, device=tau.device)
    steps = torch.arange(-before, int(first.max()) - before + _NEIGHBORS, device=tau.device)
    values = _lagrange(position - first + before, neighbors)
    weights = values.new_zeros(len(tau), len(steps)).scatter(1, first[:, None] + neighbors, values)
    return (_STEP * steps.double()).expm1() / largest, weights


def _lagrange(position: Tensor, points: Tensor) -> Tensor:
    """Return the values (D, P) at positions (D,) of the Lagrange polynomials of the points (P,)."""
    factors = (position[:, None, None] - points) / (points[:, None] - points).to(position).fill_diagonal_(1)
    diagonal = torch.eye(len(points), dtype=torch.bool, device=points.device)
    return factors.masked_fill(diagonal, 1.0).prod(dim=-1)
