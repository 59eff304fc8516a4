"""Block-diagonal posterior over one exit's classifier: independent classes, each with its full covariance.

With H_c = Σ_n (d_nc − e_nc²) φ_nφ_nᵀ, (D, D), and γ_c the prior precision of class c relative to δ (default: 1), the
precision of the weights W_c of class c is H_c + δγ_c I. In units of γ_c^-½, H_c/γ_c = V_c diag(λ_c) V_cᵀ is
diagonalised once for each class, and a new δ only shifts λ:

    Var[f(x)]_c = Σ_i (V_cᵀφ)_i² / (γ_c (λ_ci + δ)),   and the classes are independent.

It is exact, and equal to the full posterior, where the outputs do not interact (e = 0: sigmoids and Gaussians). For a
softmax it ignores the correlations of the classes. It stores C·D² numbers in place of (CD)². φ is multiplied by V in
float64, whatever its type: along a direction without training features, rounding errors would be multiplied by 1/δ (see
`kronecker`).
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
from suffice.calibration.posterior.orthonormal import check_orthonormal
from suffice.storage.parts import INVERTIBLE, NOT_NEGATIVE, POSITIVE, Parts
from suffice.utils.chunks import chunked

_CHUNK = 1 << 22
"""Number of projected features in memory at once."""


@dataclass(frozen=True)
class Statistics:
    """Sums over examples, float64; they merge by addition.

    Attributes:
        hessian: Diagonal blocks H_c of the Hessian, (C, D, D).
        count: Number of examples n.
    """

    hessian: Tensor
    count: int


def init(features: int, classes: int, device: torch.device | str = "cpu") -> Statistics:
    """Return zero sums for features of width `features`, the constant of a bias included."""
    return Statistics(torch.zeros(classes, features, features, dtype=torch.float64, device=device), 0)


def update(statistics: Statistics, phi: Tensor, logits: Tensor, curvature_fn: CurvatureFn = softmax) -> Statistics:
    """Add one batch: phi (N, D), logits (N, C)."""
    phi, hessian = phi.double(), statistics.hessian.clone()
    for block, weights in zip(hessian, curvature_fn(logits).weights().T, strict=True):
        block.addmm_(phi.T, phi * weights[:, None])
    return Statistics(hessian, statistics.count + len(phi))


def merge(a: Statistics, b: Statistics) -> Statistics:
    """Add the sums of two disjoint sets of examples."""
    return Statistics(a.hessian + b.hessian, a.count + b.count)


def widen(statistics: Statistics, classes: int) -> Statistics:
    """Return the statistics for a head with more classes; the new ones come last and have no curvature yet."""
    more = classes - len(statistics.hessian)
    return replace(statistics, hessian=pad(statistics.hessian, (0, 0, 0, 0, 0, more)))


def memory(features: int, classes: int) -> int:
    """Estimate the memory of the sums and their decomposition in bytes."""
    return 8 * 4 * classes * features**2


@dataclass(frozen=True)
class Posterior(Gaussian):
    """Independent Gaussian posteriors over the weights of each class, in the eigenbasis of its block, float64.

    Attributes:
        values: Eigenvalues λ_c, (C, D), in units of γ_c^-½.
        vectors: Eigenvectors V_c, (C, D, D), in columns.
        class_precision: Prior precisions γ of the classes relative to δ, (C,).
        count: Number of examples n.
        prior_precision: Prior precision δ, a scalar tensor; differentiable.
    """

    structure: ClassVar = "blocks"
    offsets_shapes: ClassVar = ("D D", "D S C")

    values: Tensor
    vectors: Tensor
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
        """Fit the posterior to summed examples; the decompositions are in float64.

        Args:
            statistics: Sums over the examples.
            prior_precision: Prior precision δ.
            class_precision: Prior precisions γ (C,) of the classes relative to δ (default: all 1).
        """
        H = statistics.hessian
        gamma = H.new_ones(len(H)) if class_precision is None else class_precision.to(H)
        blocks = (torch.linalg.eigh(block / relative) for block, relative in zip(H, gamma, strict=True))
        values, vectors = (torch.stack(parts) for parts in zip(*blocks, strict=True))
        delta = torch.as_tensor(prior_precision, dtype=torch.float64, device=H.device)
        return cls(values.clamp_min(0), vectors, gamma, statistics.count, delta)

    def refit(self, statistics: Statistics) -> "Posterior":
        """Fit other statistics under the same prior; additional classes get γ = 1."""
        return self.fit(statistics, self.prior_precision, self._widened(len(statistics.hessian)))

    def statistics(self) -> Statistics:
        """Reconstruct the sums of the fit, up to rounding."""
        scaled = self.vectors * (self.class_precision[:, None] * self.values)[:, None]
        return Statistics(scaled @ self.vectors.mT, self.count)

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the configuration and the tensors of an artifact."""
        return {"structure": self.structure, "count": self.count}, self.tensors()

    @classmethod
    def from_parts(cls, parts: Parts) -> "Posterior":
        """Restore a posterior from the parts of an artifact."""
        vectors, values = parts.tensor("vectors", "C D D"), parts.tensor("values", "C D", NOT_NEGATIVE)
        if bool((values.diff(dim=1) < 0).any()):
            parts.refuse_tensor("values", "in rising order for each class", "elements that are not")
        for block in vectors:
            check_orthonormal(parts, "vectors", block)
        return cls(
            values,
            vectors,
            parts.tensor("class_precision", "C", POSITIVE),
            parts.count("count", 1),
            parts.tensor("prior_precision", "", INVERTIBLE),
        )

    @property
    def num_normals(self) -> int:
        """Number of standard normals in one joint sample of the logits: C·D."""
        return self.values.numel()

    def _log_det(self) -> Tensor:
        return (self.values / self.prior_precision).log1p().sum()

    @property
    def _deviations(self) -> Tensor:
        """Standard deviations (C, D) of the weights along the eigenvectors of their class."""
        return (self.class_precision[:, None] * (self.values + self.prior_precision)).rsqrt()

    @cached_property
    def _roots(self) -> Tensor:
        """Return roots R_c (C, D, D) of the covariances of the classes, R_c R_cᵀ, as V_c times the deviations."""
        return self.vectors * self._deviations[:, None]

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
        rows = max(1, _CHUNK // self.values.numel())
        chunks = [(chunk.double() @ self._roots).square().sum(dim=-1).T for (chunk,) in chunked(rows, spectrum)]
        return torch.cat(chunks).to(spectrum.dtype)

    def centered_variance(self, spectrum: Tensor) -> Tensor:
        """Return the variance (N, C) of the logits minus their class mean, from the spectrum of φ."""
        variance, classes = self.variance(spectrum), len(self.values)
        return variance * (1 - 2 / classes) + variance.mean(dim=-1, keepdim=True) / classes

    def joint_samples(self, phi: Tensor, samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Sample deviations (N, S, C) of the logits at φ (N, D); all rows share each of the S weight samples."""
        draws = (standard_normal_like(self.values, generator) for _ in range(samples))
        weights = ((self._roots @ draw[..., None])[..., 0] for draw in draws)
        return torch.stack([phi.double() @ sample.T for sample in weights], dim=1).to(phi.dtype)

    def sample_offsets(self, normals: Tensor) -> Offsets:
        """Build the offsets of joint samples, deviations of the weights, from standard normals (S, C·D).

        Sample s of class c is Π_c^-½ z_sc with the symmetric root, which does not depend on the signs of the columns of
        V_c. The basis consists of eigenvectors of the features, as for `full`.
        """
        z = normals.to(self.values).reshape(-1, *self.values.shape)
        weights = torch.einsum("sci,cei->sce", torch.einsum("scd,cdi->sci", z, self.vectors), self._roots)
        values = torch.einsum("di,scd->isc", self._feature_vectors, weights)
        return Offsets(self._feature_vectors, values - values.mean(dim=-1, keepdim=True))

    @cached_property
    def _feature_vectors(self) -> Tensor:
        """Return the eigenvectors (D, D), in columns, of Σ_n φ_n φ_nᵀ weighted by the curvature."""
        moment = self.statistics().hessian.sum(dim=0)
        vectors: Tensor = torch.linalg.eigh(moment)[1]
        return vectors

    def coefficients(self, spectrum: Tensor, offsets: Offsets) -> Tensor:
        """Return the coefficients (N, D) of the offsets: φ in their basis."""
        return (spectrum.double() @ offsets.basis).to(spectrum.dtype)

    def macs(self, offsets: Offsets | None) -> int:
        """Count multiply-adds per example of the joint samples, or of the variance if `offsets` is None."""
        return self.vectors.numel() if offsets is None else offsets.basis.numel() + offsets.values.numel()
