"""Diagonal posterior over one exit's classifier: independent weights.

With h_cd = Σ_n (d_nc − e_nc²) φ_nd² and γ_c the prior precision of class c relative to δ (default: 1), the precision
of weight W_cd is h_cd + δγ_c, so that

    Var[f(x)]_c = Σ_d φ_d² / (h_cd + δγ_c),   and the classes are independent.

It stores only C·D numbers and ignores the correlations of features and of classes.
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
    """Sums over examples, float64; they merge by addition.

    Attributes:
        hessian: Diagonal h of the Hessian, (C, D).
        count: Number of examples n.
    """

    hessian: Tensor
    count: int


def init(features: int, classes: int, device: torch.device | str = "cpu") -> Statistics:
    """Return zero sums for features of width `features`, the constant of a bias included."""
    return Statistics(torch.zeros(classes, features, dtype=torch.float64, device=device), 0)


def update(statistics: Statistics, phi: Tensor, logits: Tensor, curvature_fn: CurvatureFn = softmax) -> Statistics:
    """Add one batch: phi (N, D), logits (N, C)."""
    hessian = statistics.hessian + curvature_fn(logits).weights().T @ phi.double().square()
    return Statistics(hessian, statistics.count + len(phi))


def merge(a: Statistics, b: Statistics) -> Statistics:
    """Add the sums of two disjoint sets of examples."""
    return Statistics(a.hessian + b.hessian, a.count + b.count)


def widen(statistics: Statistics, classes: int) -> Statistics:
    """Return the statistics for a head with more classes; the new ones come last and have no curvature yet."""
    return replace(statistics, hessian=pad(statistics.hessian, (0, 0, 0, classes - len(statistics.hessian))))


def memory(features: int, classes: int) -> int:
    """Estimate the memory of the sums in bytes."""
    return 8 * 4 * features * classes


@dataclass(frozen=True)
class Posterior(Gaussian):
    """Independent Gaussian posterior over each weight of the classifier, float64.

    Attributes:
        hessian: Diagonal h of the Hessian, (C, D).
        class_precision: Prior precisions γ of the classes relative to δ, (C,).
        count: Number of examples n.
        prior_precision: Prior precision δ, a scalar tensor; differentiable.
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
        """Fit the posterior to summed examples.

        Args:
            statistics: Sums over the examples.
            prior_precision: Prior precision δ.
            class_precision: Prior precisions γ (C,) of the classes relative to δ (default: all 1).
        """
        hessian = statistics.hessian.clamp_min(0)
        gamma = hessian.new_ones(len(hessian)) if class_precision is None else class_precision.to(hessian)
        delta = torch.as_tensor(prior_precision, dtype=torch.float64, device=hessian.device)
        return cls(hessian, gamma, statistics.count, delta)

    def refit(self, statistics: Statistics) -> "Posterior":
        """Fit other statistics under the same prior; additional classes get γ = 1."""
        return self.fit(statistics, self.prior_precision, self._widened(len(statistics.hessian)))

    def statistics(self) -> Statistics:
        """Return the sums that the posterior was fitted to."""
        return Statistics(self.hessian, self.count)

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the configuration and the tensors of an artifact."""
        return {"structure": self.structure, "count": self.count}, self.tensors()

    @classmethod
    def from_parts(cls, parts: Parts) -> "Posterior":
        """Restore a posterior from the parts of an artifact."""
        return cls(
            parts.tensor("hessian", "C D", NOT_NEGATIVE),
            parts.tensor("class_precision", "C", POSITIVE),
            parts.count("count", 1),
            parts.tensor("prior_precision", "", INVERTIBLE),
        )

    @property
    def num_normals(self) -> int:
        """Number of standard normals in one joint sample of the logits: C·D."""
        return self.hessian.numel()

    def _log_det(self) -> Tensor:
        return (self.hessian / (self.prior_precision * self.class_precision)[:, None]).log1p().sum()

    def spectrum(self, phi: Tensor) -> Tensor:
        """Return φ (N, D) itself, from which the moments follow under any prior."""
        return phi

    def covariance(self, phi: Tensor) -> Tensor:
        """Return the diagonal covariance (N, C, C) of the logits at φ (N, D)."""
        return torch.diag_embed(self.variance(phi))

    def moments(self, phi: Tensor, logits: Tensor) -> Moments:
        """Return the moments of the logits at φ (N, D); their mean is the network's logits (N, C)."""
        return Moments(logits, self.variance(phi))

    def variance(self, spectrum: Tensor) -> Tensor:
        """Return the variance (N, C) of the logits from the spectrum of φ."""
        return spectrum.square() @ self._variances.to(spectrum.dtype).T

    def centered_variance(self, spectrum: Tensor) -> Tensor:
        """Return the variance (N, C) of the logits minus their class mean, from the spectrum of φ."""
        variance, classes = self.variance(spectrum), len(self.hessian)
        return variance * (1 - 2 / classes) + variance.mean(dim=-1, keepdim=True) / classes

    def joint_samples(self, phi: Tensor, samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Sample deviations (N, S, C) of the logits at φ (N, D); all rows share each of the S weight samples."""
        deviation = self._variances.sqrt()
        weights = (deviation * standard_normal_like(deviation, generator) for _ in range(samples))
        return torch.stack([phi.double() @ sample.T for sample in weights], dim=1).to(phi.dtype)

    def sample_offsets(self, normals: Tensor) -> Offsets:
        """Build the offsets of joint samples, deviations of the weights, from standard normals (S, C·D)."""
        deviation = self._variances.sqrt()
        standardized = normals.to(deviation).reshape(-1, *deviation.shape)
        values = (standardized * deviation).permute(2, 0, 1)
        basis = torch.eye(len(values), dtype=values.dtype, device=values.device)
        return Offsets(basis, values - values.mean(dim=-1, keepdim=True))

    def coefficients(self, spectrum: Tensor, offsets: Offsets) -> Tensor:
        """Return the coefficients (N, D) of the offsets, φ itself."""
        return spectrum

    def macs(self, offsets: Offsets | None) -> int:
        """Count multiply-adds per example of the joint samples, or of the variance if `offsets` is None."""
        return self.hessian.numel() if offsets is None else offsets.values.numel()

    @cached_property
    def _variances(self) -> Tensor:
        """Return the variances (C, D) of the weights."""
        return 1 / (self.hessian + self.prior_precision * self.class_precision[:, None])
