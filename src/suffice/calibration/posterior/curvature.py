"""Curvature of a likelihood in a network's outputs: what every posterior is summed from.

The Hessian of an example's negative log-likelihood in its outputs f (C,) has the form

    diag(d) − e eᵀ      softmax: d = e = p, p = softmax(f)

so it is kept as d and e: C numbers each, where the matrix would take C².
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Curvature:
    """Hessians diag(d) − eeᵀ of a batch: d (N, C) and e (N, C) or None, float64."""

    diagonal: Tensor
    rank_one: Tensor | None

    def summed(self) -> Tensor:
        """Σ_n diag(d_n) − e_n e_nᵀ, (C, C)."""
        total = torch.diag(self.diagonal.sum(dim=0))
        return total if self.rank_one is None else total - self.rank_one.T @ self.rank_one

    def weights(self) -> Tensor:
        """Diagonals of the Hessians, (N, C)."""
        return self.diagonal if self.rank_one is None else self.diagonal - self.rank_one.square()


CurvatureFn = Callable[[Tensor], Curvature]
"""From a network's outputs (N, C) to their curvature."""


def softmax(logits: Tensor) -> Curvature:
    """Of the categorical likelihood at logits (N, C)."""
    p = logits.double().softmax(dim=-1)
    return Curvature(p, p)
