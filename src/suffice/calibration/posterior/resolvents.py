"""Inverses of diag(γ) + τU for all τ ≥ 0, from those at a few dozen nodes; U diagonal plus low rank.

In s = ln(1 + τ u_max), u_max no less than the eigenvalues of U relative to γ, every 1/(1 + τu) is smooth however
small u is: no pole is nearer than π to the real axis. So nodes equally spaced in s, and between them the polynomial
through the nearest dozen, give every resolvent to 1e-8 of itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_STEP = 0.25
"""From node to node in s."""

_NEIGHBORS = 12
"""Nodes that a polynomial goes through; few enough that its terms hardly cancel, for float32."""

GRID = 64
"""Eigenvalues of U at which a function of it is looked at."""


@dataclass(frozen=True)
class Resolvent:
    """B(τ) = (diag(γ) + τU)⁻¹ = E + τF K⁻¹ Fᵀ by Woodbury, E diagonal.

    With E = (diag(γ) + τT)⁻¹, β = 1 − υ, F = E T^½ Q |β|^½ and K = sgn(β) υ + |β|^½ QᵀEγQ |β|^½, a sum; the usual
    form, I − QᵀτTEQ in place of QᵀEγQ, is a small difference of large numbers, since U1 = 0. τ may be a little
    below 0.

    Attributes:
        tau: τ.
        diagonal: E, (C,).
        factor: F, (C, K).
        core: K, (K, K).
        log_det: log det(diag(γ) + τU).
    """

    tau: Tensor
    diagonal: Tensor
    factor: Tensor
    core: Tensor
    log_det: Tensor

    @classmethod
    def at(cls, tau: Tensor, gamma: Tensor, t: Tensor, vectors: Tensor, values: Tensor) -> "Resolvent":
        """From τ, γ (C,) and U as t (C,), Q (C, K) and υ (K,)."""
        diagonal, beta = 1 / (gamma + tau * t), 1 - values
        scaled = vectors * beta.abs().sqrt()
        core = torch.diag(torch.where(beta < 0, -values, values)) + scaled.T @ ((diagonal * gamma)[:, None] * scaled)
        log_det = torch.linalg.slogdet(core).logabsdet - diagonal.log().sum()
        return cls(tau, diagonal, (diagonal * t.sqrt())[:, None] * scaled, core, log_det)

    def apply(self, x: Tensor) -> Tensor:
        """B(τ) x, x (C, M)."""
        inner: Tensor = torch.linalg.solve(self.core, self.factor.T @ x)
        return self.diagonal[:, None] * x + self.tau * self.factor @ inner

    def diagonals(self) -> tuple[Tensor, Tensor]:
        """Diagonals of B and of PBP, (C,)."""
        solved = self.tau * torch.linalg.solve(self.core, self.factor.T)
        plain = self.diagonal + (self.factor * solved.T).sum(dim=1)
        sums = self.diagonal + solved.T @ self.factor.sum(dim=0)
        return plain, plain - 2 * sums / len(sums) + sums.mean() / len(sums)


@dataclass(frozen=True)
class Resolvents:
    """Resolvents B(τ) at the nodes, made anew each time that they are asked for, and what leads from them to others.

    Attributes:
        nodes: τ_ν, (V,).
        weights: (D, V), a function of τ at each τ that was asked for, from its values at the nodes.
        largest: u_max.
        hessian: γ (C,) and U as t (C,), Q (C, K) and υ (K,).
    """

    nodes: Tensor
    weights: Tensor
    largest: Tensor
    hessian: tuple[Tensor, Tensor, Tensor, Tensor]

    @classmethod
    def between(cls, tau: Tensor, gamma: Tensor, t: Tensor, vectors: Tensor, values: Tensor) -> "Resolvents":
        """What gives B(τ) at each τ (D,) ≥ 0, all float64; the weights are differentiable in τ, the nodes are not."""
        largest = ((t / gamma).max() * values.clamp_min(1).max()).clamp_min(1e-30)
        nodes, weights = interpolation(tau, largest)
        return cls(nodes, weights, largest, (gamma, t, vectors, values))

    @cached_property
    def grid(self) -> Tensor:
        """Eigenvalues u, (J,), to look at: 0, and from where no resolvent has started to fall to the largest."""
        start = -5 - float((self.largest * self.nodes[-1]).log1p())
        relative = torch.linspace(start, 0, GRID - 1, dtype=torch.float64, device=self.nodes.device).exp()
        return torch.cat([relative.new_zeros(1), relative]) * self.largest

    def __iter__(self) -> Iterator[Resolvent]:
        return (Resolvent.at(tau, *self.hessian) for tau in self.nodes)

    def combined(self, shares: Tensor, x: Tensor) -> Tensor:
        """Σ_ν shares_νr B(τ_ν) x, (R, C, M), for shares (V, R) and x (C, M)."""
        total = x.new_zeros(shares.shape[1], *x.shape)
        for share, resolvent in zip(shares, self, strict=True):
            total += share[:, None, None] * resolvent.apply(x)
        return total

    def rooted(self, x: Tensor) -> Tensor:
        """Lx, x (C, M), with LLᵀ = U."""
        _, t, vectors, values = self.hessian
        return t.sqrt()[:, None] * (x + vectors @ ((values.sqrt() - 1)[:, None] * (vectors.T @ x)))

    @cached_property
    def diagonals(self) -> tuple[Tensor, Tensor]:
        """Diagonals of the resolvents and of PB(τ)P, P = I − 11ᵀ/C, both (V, C)."""
        plain, visible = zip(*[resolvent.diagonals() for resolvent in self], strict=True)
        return torch.stack(plain), torch.stack(visible)

    @cached_property
    def log_dets(self) -> Tensor:
        """Of diag(γ) + τ_ν U, (V,)."""
        return torch.stack([resolvent.log_det for resolvent in self])


def interpolation(tau: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes (R,), and weights (D, R) that give a function at each τ (D,) from its values at the nodes; float64.

    The nodes reach as far below 0 and beyond the largest τ as the polynomials ask. The weights are differentiable
    in τ, the nodes are not.
    """
    position = (largest * tau).log1p() / _STEP
    first = position.detach().floor().long()
    before, neighbors = _NEIGHBORS // 2 - 1, torch.arange(_NEIGHBORS, device=tau.device)
    steps = torch.arange(-before, int(first.max()) - before + _NEIGHBORS, device=tau.device)
    shares = _lagrange(position - first + before, neighbors)
    weights = shares.new_zeros(len(tau), len(steps)).scatter(1, first[:, None] + neighbors, shares)
    return (_STEP * steps.double()).expm1() / largest, weights


def _lagrange(position: Tensor, points: Tensor) -> Tensor:
    """Values (D, P) at positions (D,) of the polynomials that are 1 at one of the points (P,) and 0 at the others."""
    factors = (position[:, None, None] - points) / (points[:, None] - points).to(position).fill_diagonal_(1)
    own = torch.eye(len(points), dtype=torch.bool, device=points.device)
    return factors.masked_fill(own, 1.0).prod(dim=-1)
