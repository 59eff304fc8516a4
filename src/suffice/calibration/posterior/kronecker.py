"""Kronecker-factored posterior over one exit's classifier.

With U (C, C) the summed softmax Hessian and A (D, D) the mean second moment of the features, the precision is

    exact prior     U ⊗ A + δI
    factored prior  (U/√n + √δ I) ⊗ (√n A + √δ I)            (the paper's; n examples)

Both are diagonal in the product of the eigenbases, U = Q diag(u) Qᵀ and A = R diag(a) Rᵀ. With ψ = Rᵀφ

    Cov[f(x)] = Q diag(g) Qᵀ,   g = (ψ²) M,   M_ij = 1/(u_j a_i + δ)   or   1/((u_j/√n + √δ)(√n a_i + √δ))

so no Jacobian is formed, no example needs a factorization, and a new δ only needs a new M. A relative precision
γ_c of each class, prior δ diag(γ) ⊗ I, is the same in units of Γ^-½: U ← Γ^-½UΓ^-½ before and Q ← Γ^-½Q after.

Along a direction without training features, M is 1/δ, up to κ = (u_max a_max + δ)/δ times as much as along the
strongest. So φ is projected in float64, whatever its type: in float32 the rounding error of ‖φ‖ in such a direction
would appear as variance. The sums of squares that follow are accurate in the type of φ.
Ritter et al. 2018 (Kronecker Laplace); Meronen et al. 2024 (the factored prior on exits).
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

from suffice.calibration.posterior.compression import leading_directions, widest_window
from suffice.calibration.posterior.curvature import CurvatureFn, softmax
from suffice.calibration.posterior.gaussian import Gaussian
from suffice.calibration.posterior.moments import Moments, Offsets, root, standard_normal_like
from suffice.calibration.posterior.orthonormal import check_orthonormal
from suffice.storage.parts import INVERTIBLE, NOT_NEGATIVE, POSITIVE, Parts
from suffice.storage.serializable import canonical_layout

Prior = Literal["exact", "factored"]


@dataclass(frozen=True)
class Statistics:
    """Sums over examples, float64; they merge by addition.

    Attributes:
        features: Sum Σ φφᵀ, (D, D).
        hessian: Sum Σ diag(p) − ppᵀ, (C, C).
        count: Number of examples n.
    """

    features: Tensor
    hessian: Tensor
    count: int


def init(features: int, classes: int, device: torch.device | str = "cpu") -> Statistics:
    """Return zero sums for features of width `features`, the constant of a bias included."""
    moment = torch.zeros(features, features, dtype=torch.float64, device=device)
    hessian = torch.zeros(classes, classes, dtype=torch.float64, device=device)
    return Statistics(moment, hessian, 0)


def update(statistics: Statistics, phi: Tensor, logits: Tensor, curvature_fn: CurvatureFn = softmax) -> Statistics:
    """Add one batch: phi (N, D), logits (N, C)."""
    phi = phi.double()
    return Statistics(
        statistics.features + phi.T @ phi,
        statistics.hessian + curvature_fn(logits).summed(),
        statistics.count + len(phi),
    )


def merge(a: Statistics, b: Statistics) -> Statistics:
    """Add the sums of two disjoint sets of examples."""
    return Statistics(a.features + b.features, a.hessian + b.hessian, a.count + b.count)


def widen(statistics: Statistics, classes: int) -> Statistics:
    """Return the statistics for a head with more classes; the new ones come last and have no curvature yet."""
    more = classes - len(statistics.hessian)
    return replace(statistics, hessian=pad(statistics.hessian, (0, more, 0, more)))


def memory(features: int, classes: int) -> int:
    """Estimate the memory of the sums and their decomposition in bytes."""
    return 8 * 4 * (features**2 + classes**2)


@dataclass(frozen=True)
class Posterior(Gaussian):
    """Gaussian posterior over the classifier's weights in the eigenbasis of U ⊗ A, float64.

    Attributes:
        class_values: Eigenvalues u of the summed Hessian, (C,), in units of Γ^-½.
        class_vectors: Eigenvectors Q, (C, C), in columns; QQᵀ = Γ⁻¹.
        feature_values: Eigenvalues a of the mean feature moment, (D,).
        feature_vectors: Eigenvectors R, (D, D), in columns. After `compressed`, (D, k) with k + 1 values: the last
            value stands for the orthogonal complement.
        class_precision: Prior precisions γ of the classes relative to δ, (C,).
        count: Number of examples n.
        prior_precision: Prior precision δ, a scalar tensor; differentiable.
        prior: Form of the prior, "exact" or "factored".
    """

    structure: ClassVar[Literal["kronecker"]] = "kronecker"
    offsets_shapes: ClassVar = ("C R", "R S C")

    class_values: Tensor
    class_vectors: Tensor
    feature_values: Tensor
    feature_vectors: Tensor
    class_precision: Tensor
    count: int
    prior_precision: Tensor
    prior: Prior

    @classmethod
    def fit(
        cls,
        statistics: Statistics,
        prior_precision: float | Tensor = 1.0,
        prior: Prior = "exact",
        class_precision: Tensor | None = None,
    ) -> "Posterior":
        """Fit the posterior to summed examples; the decomposition is in float64.

        Args:
            statistics: Sums over the examples.
            prior_precision: Prior precision δ.
            prior: Form of the prior.
            class_precision: Prior precisions γ (C,) of the classes relative to δ (default: all 1).
        """
        U = statistics.hessian
        gamma = U.new_ones(len(U)) if class_precision is None else class_precision.to(U)
        root = gamma.sqrt()
        u, Q = torch.linalg.eigh(U / torch.outer(root, root))
        a, R = torch.linalg.eigh(statistics.features / statistics.count)
        delta = torch.as_tensor(prior_precision, dtype=torch.float64, device=u.device)
        return cls(u.clamp_min(0), Q / root[:, None], a.clamp_min(0), R, gamma, statistics.count, delta, prior)

    def refit(self, statistics: Statistics) -> "Posterior":
        """Fit other statistics under the same prior; additional classes get γ = 1."""
        return self.fit(statistics, self.prior_precision, self.prior, self._widened(len(statistics.hessian)))

    def statistics(self) -> Statistics:
        """Reconstruct the sums of the fit, up to rounding."""
        Q, R = self.class_precision[:, None] * self.class_vectors, self.feature_vectors
        moment = (R * self.feature_values) @ R.T
        return Statistics(self.count * moment, (Q * self.class_values) @ Q.T, self.count)

    def compressed(self) -> "Posterior":
        """Return a posterior for predictions at this δ with fewer feature projections; variances differ by at most 2 %.

        The widest window of feature eigenvalues that barely change M is replaced by its mean, and the energy of φ
        in the window is ‖φ‖² minus the other projections. Where u a ≪ δ for most a, few projections remain. That
        difference has a rounding error of at most D ε ‖φ‖², amplified by M_window relative to the smallest possible
        variance, ‖φ‖² M_ij at the largest a. If that could be visible, the posterior is returned unchanged.
        """
        window = widest_window(self._variances[:, -1])  # at the largest u, where M varies most with a
        a, R = self.feature_values, self.feature_vectors
        outside = torch.ones_like(a, dtype=torch.bool)
        outside[window] = False
        values = torch.cat([a[outside], a[window].mean()[None]])
        amplified = (self._variances_at(values[-1:]) / self._variances[-1]).max()
        if len(a) * torch.finfo(a.dtype).eps * float(amplified) > _ROUNDING:
            return self
        return replace(self, feature_values=values, feature_vectors=R[:, outside].contiguous())

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the configuration and the tensors of an artifact."""
        configuration = {"structure": self.structure, "prior": self.prior, "count": self.count}
        return configuration, self.tensors()

    @classmethod
    def from_parts(cls, parts: Parts) -> "Posterior":
        """Restore a posterior from the parts of an artifact."""
        gamma = parts.tensor("class_precision", "C", POSITIVE)
        Q, R = parts.tensor("class_vectors", "C C"), parts.tensor("feature_vectors", "D D")
        check_orthonormal(parts, "class_vectors", Q, gamma)
        check_orthonormal(parts, "feature_vectors", R)
        return cls(
            parts.tensor("class_values", "C", NOT_NEGATIVE, rising=True),
            Q,
            parts.tensor("feature_values", "D", NOT_NEGATIVE, rising=True),
            R,
            gamma,
            parts.count("count", 1),
            parts.tensor("prior_precision", "", INVERTIBLE),
            parts.choice("prior", get_args(Prior)),
        )

    @property
    def num_normals(self) -> int:
        """Number of standard normals in one joint sample of the logits: C."""
        return len(self.class_values)

    @cached_property
    def _variances(self) -> Tensor:
        return self._variances_at(self.feature_values)

    @cached_property
    def _exact_factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return M and the transposed squares of the class vectors, plain and centered over the classes."""
        Q = self.class_vectors
        return self._variances, canonical_layout(Q.square().T), canonical_layout((Q - Q.mean(dim=0)).square().T)

    @cached_property
    def _single_factors(self) -> tuple[Tensor, Tensor, Tensor]:
        M, squares, centered = (factor.float() for factor in self._exact_factors)
        return M, squares, centered

    def _factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Return `_exact_factors` in the type of a spectrum."""
        return self._single_factors if dtype == torch.float32 else self._exact_factors

    def _variances_at(self, a: Tensor) -> Tensor:
        """Return M (len(a), C), the variance along each class eigenvector of a unit feature with eigenvalue a."""
        u, delta = self.class_values, self.prior_precision
        if self.prior == "exact":
            return 1 / (torch.outer(a, u) + delta)
        n, root = self.count**0.5, delta.sqrt()
        return torch.outer(1 / (n * a + root), 1 / (u / n + root))

    def _log_det(self) -> Tensor:
        return -(self.prior_precision * self._variances).log().sum()

    def spectrum(self, phi: Tensor) -> Tensor:
        """Return ψ² (N, D), from which the moments follow under any prior, in the type of φ (N, D)."""
        exact = phi.double()
        squares = (exact @ self.feature_vectors).square()
        if squares.shape[1] < len(self.feature_values):
            remainder = exact.square().sum(dim=1) - squares.sum(dim=1)
            squares = torch.cat([squares, remainder.clamp_min(0)[:, None]], dim=1)
        return squares.to(phi.dtype)

    def covariance(self, phi: Tensor) -> Tensor:
        """Return the covariance (N, C, C) of the logits at φ (N, D)."""
        g, Q = self.spectrum(phi) @ self._variances.to(phi.dtype), self.class_vectors.to(phi.dtype)
        return (Q * g[:, None]) @ Q.T

    def moments(self, phi: Tensor, logits: Tensor) -> Moments:
        """Return the moments of the logits at φ (N, D); their mean is the network's logits (N, C)."""
        return Moments(logits, self.variance(self.spectrum(phi)))

    def variance(self, spectrum: Tensor) -> Tensor:
        """Return the variance (N, C) of the logits from the spectrum of φ."""
        M, squares, _ = self._factors(spectrum.dtype)
        return (spectrum @ M) @ squares

    def centered_variance(self, spectrum: Tensor) -> Tensor:
        """Return the variance (N, C) of the logits minus their class mean, from the spectrum of φ."""
        M, _, centered = self._factors(spectrum.dtype)
        return (spectrum @ M) @ centered

    def joint_samples(self, phi: Tensor, samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Sample deviations (N, S, C) of the logits at φ (N, D); all rows share each of the S weight samples."""
        psi, deviation = phi.double() @ self.feature_vectors, self._variances.sqrt()
        projected = [psi @ (deviation * standard_normal_like(deviation, generator)) for _ in range(samples)]
        return (torch.stack(projected, dim=1) @ self.class_vectors.T).to(phi.dtype)

    def sample_offsets(self, normals: Tensor) -> Offsets:
        """Build the offsets of joint samples from standard normals (S, C).

        As a function of the class eigenvalues, √g(x) relative to its size on the training data is smooth and close
        to a space of a few dimensions for every x. `basis` maps √g to coordinates in that space, and sample s is
        Q(√g ⊙ (Γ^½Q)ᵀz_s) with √g reconstructed from them. The root of the covariance is the symmetric one: it is
        nearest to a diagonal matrix, which preserves the spread of the normals for each class, and it does not
        depend on the signs of the columns of Q.
        """
        size, directions = self._basis()
        rotated = normals.to(size) @ (self.class_precision.sqrt()[:, None] * self.class_vectors)
        values = ((size * directions).T[:, None] * rotated) @ self.class_vectors.T
        return Offsets(directions / size, values - values.mean(dim=-1, keepdim=True))

    def coefficients(self, spectrum: Tensor, offsets: Offsets) -> Tensor:
        """Return the coordinates (N, R) of √g in the basis of the offsets; differentiable in δ."""
        M, _, _ = self._factors(spectrum.dtype)
        return root(spectrum @ M) @ offsets.basis.to(spectrum.dtype)

    def macs(self, offsets: Offsets | None) -> int:
        """Count multiply-adds per example of the joint samples, or of the variance if `offsets` is None."""
        projection, C = self.feature_vectors.numel(), len(self.class_values)
        variance = projection + len(self.feature_values) * C
        if offsets is None:
            return variance + C * C
        rank, samples, _ = offsets.values.shape
        return variance + C * rank + rank * samples * C

    def _basis(self) -> tuple[Tensor, Tensor]:
        """Return the size of √g on the training data (C, 1) and the leading directions (C, R) of √M relative to it.

        √M is relative to that size so that class directions of small variance are as accurate as those of large
        variance. The exception is the all-ones direction, which has the largest variance and does not affect a
        softmax. Feature eigenvalues range from 0 to the largest. Differentiable in δ through the size; the
        directions, which depend little on δ, are constants.
        """
        a, Q = self.feature_values, self.class_vectors
        contrasting = ((Q - Q.mean(dim=0)).norm(dim=0) / Q.norm(dim=0)).clamp_min(1e-3)
        size = (a.clamp_min(1e-30) @ self._variances).sqrt() / contrasting
        contrast = float((1 + self.class_values.max() * a.max() / self.prior_precision).detach())
        least = min(-8.0, -2 - math.log10(contrast))  # well below where u a = δ
        grid = torch.cat([a.new_zeros(1), a.max() * torch.logspace(least, 0, 63, dtype=torch.float32).to(a)])
        curves = self._variances_at(grid).sqrt() / size
        return size[:, None], leading_directions(curves)


_ROUNDING = 1e-6
"""Largest acceptable rounding error of a variance, relative; probabilities change by less than a tenth of it."""
