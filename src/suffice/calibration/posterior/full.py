"""Full posterior over one exit's classifier: the covariance of all pairs of weights.

The precision is H + δI with H = Σ_n (diag(d_n) − e_n e_nᵀ) ⊗ φ_n φ_nᵀ, (CD, CD). It is diagonalised once,
H = V diag(λ) Vᵀ, and a new δ only shifts λ:

    Cov[f(x)]_cc' = Σ_p (V_p φ)_c (V_p φ)_c' / (λ_p + δ),   V_p the p-th eigenvector as a matrix (C, D)

A relative precision γ_c of each class, prior δ diag(γ) ⊗ I, is the same in units of Γ^-½: H ← Γ^-½HΓ^-½ before and
V_p ← Γ^-½V_p after. The other structures approximate this one, which stores (CD)² numbers and is for heads of up to
a few thousand weights. φ is multiplied by V in float64, whatever its type: along a direction without training
features, rounding errors would be multiplied by 1/δ (see `kronecker`).
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

LARGEST = 8192
"""Maximum number of weights C·D of one exit; the time of their decomposition grows with the cube."""


@dataclass(frozen=True)
class Statistics:
    """Sums over examples, float64; they merge by addition.

    Attributes:
        hessian: Hessian H, (C, D, C, D).
        count: Number of examples n.
    """

    hessian: Tensor
    count: int


def init(features: int, classes: int, device: torch.device | str = "cpu") -> Statistics:
    """Return zero sums for features of width `features`, the constant of a bias included.

    Raises:
        ValueError: If there are more than `LARGEST` weights.
    """
    if features * classes > LARGEST:
        raise ValueError(
            f"expected at most {LARGEST:,} weights for a full posterior, whose time grows with their cube, got "
            f"{features * classes:,} ({features} features, {classes} classes); choose structure='kronecker'"
        )
    shape = (classes, features, classes, features)
    return Statistics(torch.zeros(shape, dtype=torch.float64, device=device), 0)


def update(statistics: Statistics, phi: Tensor, logits: Tensor, curvature_fn: CurvatureFn = softmax) -> Statistics:
    """Add one batch: phi (N, D), logits (N, C)."""
    phi, curvature = phi.double(), curvature_fn(logits)
    hessian = statistics.hessian.clone()
    blocks = (curvature.diagonal.T[:, :, None] * phi).mT @ phi
    hessian.diagonal(dim1=0, dim2=2).add_(blocks.permute(1, 2, 0))
    if curvature.rank_one is not None:
        outer = torch.einsum("nc,ni->nci", curvature.rank_one, phi).flatten(1)
        hessian -= (outer.T @ outer).reshape(hessian.shape)
    return Statistics(hessian, statistics.count + len(phi))


def merge(a: Statistics, b: Statistics) -> Statistics:
    """Add the sums of two disjoint sets of examples."""
    return Statistics(a.hessian + b.hessian, a.count + b.count)


def widen(statistics: Statistics, classes: int) -> Statistics:
    """Return the statistics for a head with more classes; the new ones come last and have no curvature yet."""
    more = classes - len(statistics.hessian)
    return replace(statistics, hessian=pad(statistics.hessian, (0, 0, 0, more, 0, 0, 0, more)))


def memory(features: int, classes: int) -> int:
    """Estimate the memory of the sums and their decomposition in bytes."""
    return 8 * 4 * (features * classes) ** 2


@dataclass(frozen=True)
class Posterior(Gaussian):
    """Gaussian posterior over the classifier's weights in the eigenbasis of H, float64.

    Attributes:
        values: Eigenvalues λ, (P,) with P = C·D, in units of Γ^-½.
        vectors: Eigenvectors V, (C, D, P); VVᵀ = Γ⁻¹ ⊗ I.
        class_precision: Prior precisions γ of the classes relative to δ, (C,).
        count: Number of examples n.
        prior_precision: Prior precision δ, a scalar tensor; differentiable.
    """

    structure: ClassVar = "full"
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
        """Fit the posterior to summed examples; the decomposition is in float64.

        Args:
            statistics: Sums over the examples.
            prior_precision: Prior precision δ.
            class_precision: Prior precisions γ (C,) of the classes relative to δ (default: all 1).
        """
        H = statistics.hessian
        classes, features = H.shape[:2]
        gamma = H.new_ones(classes) if class_precision is None else class_precision.to(H)
        root, size = gamma.sqrt()[:, None], classes * features
        values, vectors = torch.linalg.eigh((H / root[:, :, None, None] / root).reshape(size, size))
        delta = torch.as_tensor(prior_precision, dtype=torch.float64, device=values.device)
        vectors = vectors.reshape(classes, features, size) / root[:, :, None]
        return cls(values.clamp_min(0), vectors, gamma, statistics.count, delta)

    def refit(self, statistics: Statistics) -> "Posterior":
        """Fit other statistics under the same prior; additional classes get γ = 1."""
        return self.fit(statistics, self.prior_precision, self._widened(len(statistics.hessian)))

    def statistics(self) -> Statistics:
        """Reconstruct the sums of the fit, up to rounding."""
        V = self.class_precision[:, None, None] * self.vectors
        return Statistics(torch.einsum("cip,djp->cidj", V * self.values, V), self.count)

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the configuration and the tensors of an artifact."""
        return {"structure": self.structure, "count": self.count}, self.tensors()

    @classmethod
    def from_parts(cls, parts: Parts) -> "Posterior":
        """Restore a posterior from the parts of an artifact."""
        gamma = parts.tensor("class_precision", "C", POSITIVE)
        values = parts.tensor("values", "P", NOT_NEGATIVE, rising=True)
        vectors = parts.tensor("vectors", "C D P")
        if len(values) != vectors[..., 0].numel():
            parts.refuse_tensor("values", f"as many as weights, {vectors[..., 0].numel()}", len(values))
        check_orthonormal(parts, "vectors", vectors.flatten(0, 1), gamma.repeat_interleave(vectors.shape[1]))
        return cls(values, vectors, gamma, parts.count("count", 1), parts.tensor("prior_precision", "", INVERTIBLE))

    @property
    def num_normals(self) -> int:
        """Number of standard normals in one joint sample of the logits: C·D."""
        return len(self.values)

    def _log_det(self) -> Tensor:
        return (self.values / self.prior_precision).log1p().sum()

    def spectrum(self, phi: Tensor) -> Tensor:
        """Return φ (N, D) itself, from which the moments follow under any prior."""
        return phi

    def covariance(self, phi: Tensor) -> Tensor:
        """Return the covariance (N, C, C) of the logits at φ (N, D)."""
        directions = torch.einsum("nd,cdp->ncp", phi.double(), self.vectors)
        return ((directions / (self.values + self.prior_precision)) @ directions.mT).to(phi.dtype)

    def moments(self, phi: Tensor, logits: Tensor) -> Moments:
        """Return the moments of the logits at φ (N, D); their mean is the network's logits (N, C)."""
        return Moments(logits, self.variance(phi))

    def variance(self, spectrum: Tensor) -> Tensor:
        """Return the variance (N, C) of the logits from the spectrum of φ."""
        return self._variance_along(spectrum, self.vectors)

    def centered_variance(self, spectrum: Tensor) -> Tensor:
        """Return the variance (N, C) of the logits minus their class mean, from the spectrum of φ."""
        return self._variance_along(spectrum, self.vectors - self.vectors.mean(dim=0))

    def _variance_along(self, phi: Tensor, vectors: Tensor) -> Tensor:
        directions = torch.einsum("nd,cdp->ncp", phi.double(), vectors)
        return (directions.square() @ (1 / (self.values + self.prior_precision))).to(phi.dtype)

    def joint_samples(self, phi: Tensor, samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Sample deviations (N, S, C) of the logits at φ (N, D); all rows share each of the S weight samples."""
        deviation = (self.values + self.prior_precision).rsqrt()
        weights = (self.vectors @ (deviation * standard_normal_like(deviation, generator)) for _ in range(samples))
        return torch.stack([phi.double() @ sample.T for sample in weights], dim=1).to(phi.dtype)

    def sample_offsets(self, normals: Tensor) -> Offsets:
        """Build the offsets of joint samples, deviations of the weights, from standard normals (S, C·D).

        Sample s is Π^-½ z_s with the symmetric root, which does not depend on the signs of the columns of V. The
        basis consists of eigenvectors of the features, which separates the directions without training features.
        """
        orthonormal = self.class_precision.sqrt()[:, None, None] * self.vectors
        scaled = normals.to(self.values) @ orthonormal.flatten(0, 1) / (self.values + self.prior_precision).sqrt()
        weights = torch.einsum("sp,cdp->scd", scaled, self.vectors)
        values = torch.einsum("di,scd->isc", self._feature_vectors, weights)
        return Offsets(self._feature_vectors, values - values.mean(dim=-1, keepdim=True))

    @cached_property
    def _feature_vectors(self) -> Tensor:
        """Return the eigenvectors (D, D), in columns, of Σ_n φ_n φ_nᵀ weighted by the curvature."""
        moment = torch.einsum("cip,cjp->ij", self.vectors * self.values, self.vectors)
        vectors: Tensor = torch.linalg.eigh(moment)[1]
        return vectors

    def coefficients(self, spectrum: Tensor, offsets: Offsets) -> Tensor:
        """Return the coefficients (N, D) of the offsets: φ in their basis."""
        return (spectrum.double() @ offsets.basis).to(spectrum.dtype)

    def macs(self, offsets: Offsets | None) -> int:
        """Count multiply-adds per example of the joint samples, or of the variance if `offsets` is None."""
        return self.vectors.numel() if offsets is None else offsets.basis.numel() + offsets.values.numel()
