"""Diagonal posterior over one exit's classifier: every weight on its own.

With h_cd = Σ_n (d_nc − e_nc²) φ_nd² and γ_c the class's prior precision relative to δ, 1 unless said, the precision
of weight W_cd is h_cd + δγ_c, so that

    Var[f(x)]_c = Σ_d φ_d² / (h_cd + δγ_c),   and the classes are independent.

The cheapest to keep, C·D numbers; it forgets all that features and classes share.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from suffice.calibration.posterior.curvature import CurvatureFn, softmax
from suffice.calibration.posterior.gaussian import Gaussian
from suffice.calibration.posterior.moments import Moments, Offsets, standard_normal_like
from suffice.storage.parts import INVERTIBLE, NOT_NEGATIVE, POSITIVE, Parts


@dataclass(frozen=True)
class Statistics:
    """Sums over examples, float64; merge by adding.

    Attributes:
        hessian: h, (C, D).
        count: n, the examples seen.
    """

    hessian: Tensor
    count: int


def init(features: int, classes: int, device: torch.device | str = "cpu") -> Statistics:
    """Statistics of no example, for φ of width `features` (its constant 1 for a bias included)."""
    return Statistics(torch.zeros(classes, features, dtype=torch.float64, device=device), 0)


def update(statistics: Statistics, phi: Tensor, logits: Tensor, curvature_fn: CurvatureFn = softmax) -> Statistics:
    """Add one batch: phi (N, D), logits (N, C)."""
    hessian = statistics.hessian + curvature_fn(logits).weights().T @ phi.double().square()
    return Statistics(hessian, statistics.count + len(phi))


def merge(a: Statistics, b: Statistics) -> Statistics:
    """Statistics of the examples of both."""
    return Statistics(a.hessian + b.hessian, a.count + b.count)


def widen(statistics: Statistics, classes: int) -> Statistics:
    """The same statistics for a head of more classes, the new ones behind, of which nothing was seen."""
    return replace(statistics, hessian=pad(statistics.hessian, (0, 0, 0, classes - len(statistics.hessian))))


def memory(features: int, classes: int) -> int:
    """Bytes of the sums, about."""
    return 8 * 4 * features * classes


@dataclass(frozen=True)
class Posterior(Gaussian):
    """An independent Gaussian for each of the classifier's weights. float64.

    Attributes:
        hessian: h, (C, D).
        class_precision: γ, (C,), the classes' prior precisions relative to δ.
        count: n.
        prior_precision: δ, a scalar tensor; differentiable.
    """

    structure: ClassVar = "diagonal"
    offsets_shapes: ClassVar = ("D D", "D S C")

    hessian: Tensor
    class_precision: Tensor
    count: int
    prior_precision: Tensor

    @classmethod
    def fit(
        cls,
        statistics: Statistics,
        prior_precision: float | Tensor = 1.0,
        class_precision: Tensor | None = None,
    ) -> "Posterior":
        """Posterior of the examples summed in `statistics`.

        Args:
            statistics: sums over the examples.
            prior_precision: δ.
            class_precision: γ (C,), relative to δ; None for 1.
        """
        hessian = statistics.hessian.clamp_min(0)
        gamma = hessian.new_ones(len(hessian)) if class_precision is None else class_precision.to(hessian)
        delta = torch.as_tensor(prior_precision, dtype=torch.float64, device=hessian.device)
        return cls(hessian, gamma, statistics.count, delta)

    def refit(self, statistics: Statistics) -> "Posterior":
        """Posterior of other statistics under the same prior; classes that they have more of get γ = 1."""
        return self.fit(statistics, self.prior_precision, self._widened(len(statistics.hessian)))

    def statistics(self) -> Statistics:
        """The sums that it was fitted to."""
        return Statistics(self.hessian, self.count)

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Configuration and tensors of an artifact."""
        return {"structure": self.structure, "count": self.count}, self.tensors()

    @classmethod
    def from_parts(cls, parts: Parts) -> "Posterior":
        """The reverse of `parts`."""
        return cls(
            parts.tensor("hessian", "C D", NOT_NEGATIVE),
            parts.tensor("class_precision", "C", POSITIVE),
            parts.count("count", 1),
            parts.tensor("prior_precision", "", INVERTIBLE),
        )

    @property
    def noise(self) -> int:
        """Standard normals that one joint sample of the logits takes: C·D."""
        return self.hessian.numel()

    def _log_det(self) -> Tensor:
        return (self.hessian / (self.prior_precision * self.class_precision)[:, None]).log1p().sum()

    def spectrum(self, phi: Tensor) -> Tensor:
        """φ (N, D) itself: all that the posterior needs of it, whatever the prior."""
        return phi

    def covariance(self, phi: Tensor) -> Tensor:
        """Covariance of the logits, (N, C, C), diagonal."""
        return torch.diag_embed(self.variance(phi))

    def moments(self, phi: Tensor, logits: Tensor) -> Moments:
        """Moments of the logits at φ (N, D), whose mean is the network's own logits (N, C)."""
        return Moments(logits, self.variance(phi))

    def variance(self, spectrum: Tensor) -> Tensor:
        """Variance (N, C) of the logits, from the spectrum of φ."""
        return spectrum.square() @ self._variances.to(spectrum.dtype).T

    def visible_variance(self, spectrum: Tensor) -> Tensor:
        """Variance (N, C) of the logits less their mean over the classes, from the spectrum of φ."""
        variance, classes = self.variance(spectrum), len(self.hessian)
        return variance * (1 - 2 / classes) + variance.mean(dim=-1, keepdim=True) / classes

    def joint_samples(self, phi: Tensor, samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Deviations (N, S, C) of the logits at φ (N, D): S draws of the weights, each the same for every row."""
        deviation = self._variances.sqrt()
        weights = (deviation * standard_normal_like(deviation, generator) for _ in range(samples))
        return torch.stack([phi.double() @ drawn.T for drawn in weights], dim=1).to(phi.dtype)

    def sample_offsets(self, normals: Tensor) -> Offsets:
        """Offsets of joint samples from standard normals (S, noise): deviations of the weights themselves."""
        deviation = self._variances.sqrt()
        drawn = normals.to(deviation).reshape(-1, *deviation.shape)
        values = (drawn * deviation).permute(2, 0, 1)
        basis = torch.eye(len(values), dtype=values.dtype, device=values.device)
        return Offsets(basis, values - values.mean(dim=-1, keepdim=True))

    def coefficients(self, spectrum: Tensor, offsets: Offsets) -> Tensor:
        """Coordinates (N, D) in the basis of the offsets: φ."""
        return spectrum

    def macs(self, offsets: Offsets | None) -> int:
        """Multiply-adds per example of joint samples, or of the variance where there are none."""
        return self.hessian.numel() if offsets is None else offsets.values.numel()

    @cached_property
    def _variances(self) -> Tensor:
        """Of the weights, (C, D)."""
        return 1 / (self.hessian + self.prior_precision * self.class_precision[:, None])
