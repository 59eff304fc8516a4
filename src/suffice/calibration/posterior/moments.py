"""Moments and joint samples of the logits of a batch under a posterior over an exit's classifier.

The classifier is linear, so its logits are exactly Gaussian under a Gaussian posterior: `Moments`. Samples for
predictions use the fixed randomness of `Offsets`:

    f_s(x) = mean(x) + Σ_r coefficients_r(x) · values[r, s],   s = 1 … S

so that sampling is a small matrix product with the same result every time, and no random number is drawn at prediction.
The samples are joint over the classes of one example. Between examples, those of a Kronecker posterior overestimate the
covariance: use `joint_samples` where it matters.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from suffice.storage.parts import Parts
from suffice.storage.serializable import Serializable
from suffice.utils import arguments


@dataclass(frozen=True)
class Moments:
    """Mean and marginal variance of the logits, both (N, C), before any temperature."""

    mean: Tensor
    variance: Tensor

    def __repr__(self) -> str:
        """Describe the moments in one line."""
        return f"Moments({self.mean.shape[0]:,} examples, {self.mean.shape[1]:,} outputs)"


@dataclass(frozen=True)
class Offsets(Serializable):
    """Fixed randomness of S joint samples of the logits.

    Attributes:
        basis: Map from the spectrum of φ to its coefficients, float64; shape and meaning depend on the posterior.
        values: Additions to the logits, (R, S, C), centered over the classes, which does not change a softmax.
    """

    basis: Tensor
    values: Tensor

    @classmethod
    def from_parts(cls, parts: Parts, shapes: tuple[str, str]) -> "Offsets":
        """Restore offsets from the parts of an artifact, in the shapes of their posterior or likelihood."""
        return cls(parts.tensor("basis", shapes[0]).double(), parts.tensor("values", shapes[1]))

    def to(self, device: torch.device, dtype: torch.dtype) -> "Offsets":
        """Return the offsets on another device, for logits of another type."""
        return Offsets(self.basis.to(device), self.values.to(device, dtype))


def root(variance: Tensor) -> Tensor:
    """Return the square root of variances, with the gradient 0 instead of infinity at a variance of 0."""
    return variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt()


def quantiles(count: int) -> Tensor:
    """Return `count` equal quantiles of a standard normal (count,), float64, rising and rescaled to variance 1.

    They are the points of `standard_normals` in one dimension. Half of them mirror the other half.
    """
    positive = _positive_quantiles(count)
    points = torch.cat([-positive.flip(0), positive])
    return points / points.square().mean().sqrt()


def standard_normal_like(tensor: Tensor, generator: torch.Generator | None) -> Tensor:
    """Sample standard normals of a tensor's shape and type on the CPU and move them to its device."""
    return torch.randn(tensor.shape, dtype=tensor.dtype, generator=generator).to(tensor.device)


def check_samples(count: int) -> None:
    """Raise an error unless the number of samples is a whole number, even and at least 2."""
    if arguments.whole("samples", count, least=None) < 2 or count % 2:
        raise ValueError(f"expected an even number of samples of at least 2, got {count}")


def standard_normals(count: int, dimension: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Sample points (count, dimension), float64, that replace independent standard normals, in antithetic pairs.

    Half of them are a Latin hypercube: every dimension has the same quantiles of |z| in its own random order and with
    its own random signs, so that each coordinate alone has the best possible spread. Correlations are removed by the
    polar factor, √max(h, d) · U Vᵀ of U S Vᵀ (h, d), alternating with restoring the quantiles, and once at the end.
    The other half is their negation. With at least as many pairs as dimensions the covariance is the identity;
    with fewer, the pairs are orthogonal and of equal length. McKay et al. 1979; Owen 1994.

    Raises:
        ValueError: If `count` is not an even number of at least 2.
    """
    check_samples(count)
    half = count // 2
    positive = _positive_quantiles(count)
    points = torch.rand(half, dimension, dtype=torch.float64, generator=generator) - 0.5
    for _ in range(_ROUNDS):
        ranks = points.abs().argsort(dim=0).argsort(dim=0)
        points = _uncorrelated(positive[ranks] * points.sign())
    return torch.cat([points, -points])


def _positive_quantiles(count: int) -> Tensor:
    """Return the upper half of `count` equal quantiles of a standard normal, rising, float64."""
    quantiles: Tensor = torch.special.ndtri(torch.arange(0.5, count // 2, dtype=torch.float64) / count + 0.5)
    return quantiles


def _uncorrelated(points: Tensor) -> Tensor:
    """Return the nearest points (h, d) with orthogonal rows (or columns, if fewer) and the E‖z‖² of normals."""
    left, _, right = torch.linalg.svd(points, full_matrices=False)
    uncorrelated: Tensor = max(points.shape) ** 0.5 * (left @ right)
    return uncorrelated


_ROUNDS = 5
"""Rounds of quantiles and polar factors; more rounds changed no measurement (docs/links.md)."""
