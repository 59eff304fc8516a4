"""Curvature of a likelihood in the outputs of a network; every posterior sums it over examples.

The Hessian of an example's negative log-likelihood in its outputs f (C,) has the form

    diag(d) − e eᵀ      softmax: d = e = p, p = softmax(f);      sigmoids: d = p(1 − p), p = σ(f), without e

so it is stored as d and e, with C numbers each, in place of the matrix with C².
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Curvature:
    """Hessians diag(d) − eeᵀ of a batch, float64.

    Attributes:
        diagonal: Vectors d, (N, C).
        rank_one: Vectors e, (N, C), or None for zero.
    """

    diagonal: Tensor
    rank_one: Tensor | None

    def summed(self) -> Tensor:
        """Return the sum Σ_n diag(d_n) − e_n e_nᵀ, (C, C)."""
        total = torch.diag(self.diagonal.sum(dim=0))
        return total if self.rank_one is None else total - self.rank_one.T @ self.rank_one

    def weights(self) -> Tensor:
        """Return the diagonals (N, C) of the Hessians."""
        return self.diagonal if self.rank_one is None else self.diagonal - self.rank_one.square()


CurvatureFn = Callable[[Tensor], Curvature]
"""Function from the outputs (N, C) of a network to their curvature."""


def softmax(logits: Tensor) -> Curvature:
    """Return the curvature of the categorical likelihood at logits (N, C)."""
    p = logits.double().softmax(dim=-1)
    return Curvature(p, p)


def sigmoid(logits: Tensor) -> Curvature:
    """Return the curvature of independent Bernoulli likelihoods at logits (N, C), one for each."""
    logits = logits.double()
    return Curvature(logits.sigmoid() * (-logits).sigmoid(), None)
