"""What a posterior over an exit's classifier says about the logits of a batch.

The classifier is linear, so its logits are exactly Gaussian under a Gaussian posterior: `Moments`. Samples for
predictions share their randomness through fixed `Offsets`:

    f_s(x) = mean(x) + Σ_r coefficients_r(x) · values[r, s],   s = 1 … S

so that drawing is a small matrix product, the same bytes every time, and nothing is drawn at prediction. They are
joint over the classes of one example. Between examples they are not draws of the weights where the posterior is
a product of factors: there they make examples more alike than they are, and `joint_samples` are to be asked.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from suffice.storage.parts import Parts
from suffice.storage.stored import Stored


@dataclass(frozen=True)
class Moments:
    """Mean and marginal variance of the logits, both (N, C), before any temperature."""

    mean: Tensor
    variance: Tensor


@dataclass(frozen=True)
class Offsets(Stored):
    """Fixed randomness of S joint samples.

    Attributes:
        basis: what `coefficients` are read off with, float64; its shape and meaning are the posterior's own.
        values: (R, S, C), additions to the logits, centred over the classes, which no softmax can see.
    """

    basis: Tensor
    values: Tensor

    @classmethod
    def from_parts(cls, parts: Parts, shapes: tuple[str, str]) -> "Offsets":
        """From the tensors of an artifact, in the shapes of their posterior or likelihood."""
        return cls(parts.tensor("basis", shapes[0]).double(), parts.tensor("values", shapes[1]))

    def to(self, device: torch.device, dtype: torch.dtype) -> "Offsets":
        """The same offsets on another device, for logits of another type."""
        return Offsets(self.basis.to(device), self.values.to(device, dtype))


def standard_normal_like(tensor: Tensor, generator: torch.Generator | None) -> Tensor:
    """Independent standard normals of a tensor's shape, type and device, drawn on the CPU."""
    return torch.randn(tensor.shape, dtype=tensor.dtype, generator=generator).to(tensor.device)


def check_samples(count: int) -> None:
    """Raise a ValueError unless samples can be drawn in pairs."""
    if count < 2 or count % 2:
        raise ValueError(f"expected an even number of samples of at least 2, got {count}")


def standard_normals(count: int, dimension: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Points (count, dimension), float64, that stand for independent standard normals, in antithetic pairs.

    Half of them are a Latin hypercube: in every dimension the same quantiles of |z|, in an order and with signs
    of their own, so that each coordinate alone is as well spread as it can be. Its correlations are removed by the
    polar factor, √max(h, d) · U Vᵀ of U S Vᵀ (h, d), in turn with putting the quantiles back, and last.
    The other half is their negation. With at least as many pairs as dimensions the covariance is the identity;
    with fewer, the pairs are orthogonal and of equal length. McKay et al. 1979; Owen 1994.

    Raises:
        ValueError: if `count` is not an even number of at least 2.
    """
    check_samples(count)
    half = count // 2
    levels = torch.arange(0.5, half, dtype=torch.float64) / count + 0.5
    quantiles = torch.special.ndtri(levels)
    points = torch.rand(half, dimension, dtype=torch.float64, generator=generator) - 0.5
    for _ in range(_ROUNDS):
        ranks = points.abs().argsort(dim=0).argsort(dim=0)
        points = _uncorrelated(quantiles[ranks] * points.sign())
    return torch.cat([points, -points])


def _uncorrelated(points: Tensor) -> Tensor:
    """The nearest points (h, d) whose rows, or columns if they are fewer, are orthogonal; E‖z‖² as for normals."""
    left, _, right = torch.linalg.svd(points, full_matrices=False)
    uncorrelated: Tensor = max(points.shape) ** 0.5 * (left @ right)
    return uncorrelated


_ROUNDS = 5
"""Rounds of quantiles and polar factors: more change nothing that was measured (docs/links.md)."""
