"""Kronecker posterior for tens of thousands of classes: diagonal plus low rank on the class side.

The precision is U ⊗ A + δ diag(γ) ⊗ I as in `kronecker`, with A (D, D) the exact mean second moment of the features.
The summed Hessian U (C, C) is never formed. It is estimated from its diagonal and a sketch (`sketch`), both linear in
the data, as T^½ (I + Q diag(υ − 1) Qᵀ) T^½ with T = diag(t) and Q (C, K); this is exact for few classes.

The covariance is a mixture, over the feature eigenvalues a, of resolvents of U. They are computed at a few dozen nodes
τ and interpolated (`resolvents`):

    B(τ) = (diag(γ) + τU)⁻¹,   Cov[f(x)] = Σ_i ψ_i² B(a_i/δ)/δ ≈ Σ_r w_r(x) B(τ_r),   ψ = Rᵀφ,   A = R diag(a) Rᵀ

Each is a diagonal plus rank K by Woodbury, so that nothing of size C² is allocated. φ is projected in float64, as in
`kronecker`.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from suffice.calibration.posterior import sketch as sketches
from suffice.calibration.posterior.compression import leading_directions
from suffice.calibration.posterior.curvature import CurvatureFn, softmax
from suffice.calibration.posterior.gaussian import Gaussian
from suffice.calibration.posterior.moments import Moments, Offsets, root, standard_normal_like
from suffice.calibration.posterior.orthonormal import check_orthonormal
from suffice.calibration.posterior.resolvents import GRID, Resolvents
from suffice.storage.parts import INVERTIBLE, NOT_NEGATIVE, POSITIVE, Parts, Range


@dataclass(frozen=True)
class Statistics:
    """Sums over examples, float64; they merge by addition.

    Attributes:
        features: Sum Σ φφᵀ, (D, D).
        diagonal: Diagonal h of U = Σ diag(p) − ppᵀ, (C,).
        sketch: Product Y = Σ (ppᵀ − diag(p²)) Ω, (C, L), with the signs Ω determined by C and L.
        count: Number of examples n.
    """

    features: Tensor
    diagonal: Tensor
    sketch: Tensor
    count: int


def init(
    features: int, classes: int, device: torch.device | str = "cpu", columns: int = sketches.COLUMNS
) -> Statistics:
    """Return zero sums for features of width `features`, the constant of a bias included."""
    moment = torch.zeros(features, features, dtype=torch.float64, device=device)
    products = torch.zeros(classes, min(columns, classes), dtype=torch.float64, device=device)
    return Statistics(moment, products.new_zeros(classes), products, 0)


def update(statistics: Statistics, phi: Tensor, logits: Tensor, curvature_fn: CurvatureFn = softmax) -> Statistics:
    """Add one batch: phi (N, D), logits (N, C)."""
    phi, curvature, products = phi.double(), curvature_fn(logits), statistics.sketch
    if curvature.rank_one is not None:
        products = products + sketches.off_diagonal(curvature.rank_one, products.shape[1])
    return Statistics(
        statistics.features + phi.T @ phi,
        statistics.diagonal + curvature.weights().sum(dim=0),
        products,
        statistics.count + len(phi),
    )


def merge(a: Statistics, b: Statistics) -> Statistics:
    """Add the sums of two disjoint sets of examples."""
    return Statistics(a.features + b.features, a.diagonal + b.diagonal, a.sketch + b.sketch, a.count + b.count)


def widen(statistics: Statistics, classes: int) -> Statistics:
    """Return the statistics for a head with more classes; the new ones come last and have no curvature yet."""
    before = len(statistics.diagonal)
    if classes < before:
        raise ValueError(f"expected at least the {before} classes of the statistics, got {classes}")
    diagonal = torch.cat([statistics.diagonal, statistics.diagonal.new_zeros(classes - before)])
    return replace(statistics, diagonal=diagonal, sketch=sketches.widen(statistics.sketch, classes))


def memory(features: int, classes: int) -> int:
    """Estimate the memory of the sums and their decomposition in bytes."""
    return 8 * (4 * features**2 + 8 * classes * min(sketches.COLUMNS, classes))


@dataclass(frozen=True)
class Posterior(Gaussian):
    """Gaussian posterior over the classifier's weights in the eigenbasis of the features, float64.

    Attributes:
        diagonal: Diagonal h of `Statistics`, (C,), stored so that examples can be added.
        sketch: Product Y of `Statistics`, (C, L), stored for the same reason.
        class_diagonal: Diagonal t of the estimate of U, (C,).
        class_vectors: Orthonormal columns Q of the estimate of U, (C, K).
        class_values: Values υ of the estimate of U, (K,), from 0 to 2.
        feature_values: Eigenvalues a of the mean feature moment, (D,).
        feature_vectors: Eigenvectors R, (D, D), in columns.
        class_precision: Prior precisions γ of the classes relative to δ, (C,).
        count: Number of examples n.
        prior_precision: Prior precision δ, a scalar tensor; differentiable.
    """

    structure: ClassVar = "lowrank"
    offsets_shapes: ClassVar = (f"{GRID} R", "R S C")

    diagonal: Tensor
    sketch: Tensor
    class_diagonal: Tensor
    class_vectors: Tensor
    class_values: Tensor
    feature_values: Tensor
    feature_vectors: Tensor
    class_precision: Tensor
    count: int
    prior_precision: Tensor

    @classmethod
    def fit(
        cls, statistics: Statistics, prior_precision: float | Tensor = 1.0, class_precision: Tensor | None = None
    ) -> "Posterior":
        """Fit the posterior to summed examples; the decomposition is in float64.

        Args:
            statistics: Sums over the examples.
            prior_precision: Prior precision δ.
            class_precision: Prior precisions γ (C,) of the classes relative to δ (default: all 1).
        """
        h, Y = statistics.diagonal.clamp_min(0), statistics.sketch
        t, Q, values = sketches.recover(h, Y)
        a, R = torch.linalg.eigh(statistics.features / statistics.count)
        delta = torch.as_tensor(prior_precision, dtype=torch.float64, device=a.device)
        gamma = torch.ones_like(h) if class_precision is None else class_precision.to(h)
        return cls(h, Y, t, Q, values, a.clamp_min(0), R, gamma, statistics.count, delta)

    def refit(self, statistics: Statistics) -> "Posterior":
        """Fit other statistics under the same prior; additional classes get γ = 1."""
        return self.fit(statistics, self.prior_precision, self._widened(len(statistics.diagonal)))

    def statistics(self) -> Statistics:
        """Reconstruct the sums of the fit, up to rounding."""
        features = self.count * (self.feature_vectors * self.feature_values) @ self.feature_vectors.T
        return Statistics(features, self.diagonal, self.sketch, self.count)

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the configuration and the tensors of an artifact."""
        return {"structure": self.structure, "count": self.count}, self.tensors()

    @classmethod
    def from_parts(cls, parts: Parts) -> "Posterior":
        """Restore a posterior from the parts of an artifact."""
        Q, R = parts.tensor("class_vectors", "C K"), parts.tensor("feature_vectors", "D D")
        sketch = parts.tensor("sketch", "C L")
        if sketch.shape[1] > len(sketch):
            parts.refuse_tensor("sketch", f"of at most {len(sketch)} columns", sketch.shape[1])
        check_orthonormal(parts, "class_vectors", Q)
        check_orthonormal(parts, "feature_vectors", R)
        return cls(
            parts.tensor("diagonal", "C", NOT_NEGATIVE),
            sketch,
            parts.tensor("class_diagonal", "C", NOT_NEGATIVE),
            Q,
            parts.tensor("class_values", "K", Range(0, 2)),
            parts.tensor("feature_values", "D", NOT_NEGATIVE, rising=True),
            R,
            parts.tensor("class_precision", "C", POSITIVE),
            parts.count("count", 1),
            parts.tensor("prior_precision", "", INVERTIBLE),
        )

    @property
    def num_normals(self) -> int:
        """Number of standard normals in one joint sample of the logits: C."""
        return len(self.class_diagonal)

    def _log_det(self) -> Tensor:
        """Return Σ_i log det(I + (a_i/δ) Γ^-½UΓ^-½), Γ = diag(γ)."""
        log_dets = self._resolvents.log_dets - self.class_precision.log().sum()
        total: Tensor = (self._resolvents.weights @ log_dets).sum()
        return total

    def spectrum(self, phi: Tensor) -> Tensor:
        """Return ψ² (N, D), from which the moments follow under any prior, in the type of φ (N, D)."""
        return (phi.double() @ self.feature_vectors).square().to(phi.dtype)

    def covariance(self, phi: Tensor) -> Tensor:
        """Return the covariance (N, C, C) of the logits at φ (N, D)."""
        eye = torch.eye(self.num_normals, dtype=torch.float64, device=phi.device)
        return self._resolvents.combined(self._weights(self.spectrum(phi)).double().T, eye).to(phi.dtype)

    def moments(self, phi: Tensor, logits: Tensor) -> Moments:
        """Return the moments of the logits at φ (N, D); their mean is the network's logits (N, C)."""
        return Moments(logits, self.variance(self.spectrum(phi)))

    def variance(self, spectrum: Tensor) -> Tensor:
        """Return the variance (N, C) of the logits from the spectrum of φ."""
        return self._weights(spectrum) @ self._resolvents.diagonals[0].to(spectrum.dtype)

    def centered_variance(self, spectrum: Tensor) -> Tensor:
        """Return the variance (N, C) of the logits minus their class mean, from the spectrum of φ."""
        return self._weights(spectrum) @ self._resolvents.diagonals[1].to(spectrum.dtype)

    def joint_samples(self, phi: Tensor, samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Sample deviations (N, S, C) of the logits at φ (N, D); all rows share each of the S weight samples.

        Along feature eigenvector i the weights have the precision Π_i = δΓ + a_i U. The covariance of
        y_i = (δΓ)^½ z + a_i^½ L z' with LLᵀ = U is Π_i, so that the covariance of Π_i⁻¹ y_i is Π_i⁻¹.
        """
        chunk = max(1, _CHUNK // (len(self.feature_values) * self.num_normals))
        counts = [min(chunk, samples - first) for first in range(0, samples, chunk)]
        psi = phi.double() @ self.feature_vectors
        return torch.cat([self._sample_chunk(psi, count, generator) for count in counts], dim=1).to(phi.dtype)

    def _sample_chunk(self, psi: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
        """Sample deviations (N, count, C) of the logits at ψ (N, D)."""
        resolvents, delta = self._resolvents, self.prior_precision
        like = psi.new_empty(self.num_normals, len(self.feature_values), count)
        z, z_data = standard_normal_like(like, generator), standard_normal_like(like, generator)
        y = (delta * self.class_precision).sqrt()[:, None, None] * z
        y += self.feature_values.sqrt()[:, None] * resolvents.rooted(z_data.flatten(1)).view_as(z_data)
        total = psi.new_zeros(self.num_normals, len(psi) * count)
        for weight, resolvent in zip(resolvents.weights.T / delta, resolvents, strict=True):
            total += resolvent.apply(torch.einsum("nd,cds->cns", psi * weight, y).flatten(1))
        return total.view(self.num_normals, len(psi), count).permute(1, 2, 0)

    def sample_offsets(self, normals: Tensor) -> Offsets:
        """Build the offsets of joint samples from standard normals (S, C).

        With g(u) the variance at x along a class eigenvector of eigenvalue u, sample s is √g(U) z_s. For every x,
        √g is close to the span of a few functions of u, which are combinations of resolvents 1/(1 + τu). `basis`
        maps the values of √g on a grid of u to its coordinates in that span.
        """
        basis, node_weights = self._basis()
        z = (normals.to(basis) * self.class_precision.sqrt()).T
        values = self._resolvents.combined(node_weights, z)
        return Offsets(basis, (values - values.mean(dim=1, keepdim=True)).mT)

    def coefficients(self, spectrum: Tensor, offsets: Offsets) -> Tensor:
        """Return the coordinates (N, R) of √g in the basis of the offsets; differentiable in δ."""
        M = self._variances_at(self.feature_values).to(spectrum.dtype)
        return root(spectrum @ M) @ offsets.basis.to(spectrum.dtype)

    def macs(self, offsets: Offsets | None) -> int:
        """Count multiply-adds per example of the joint samples, or of the variance if `offsets` is None."""
        D, C, resolvents = len(self.feature_values), self.num_normals, self._resolvents
        if offsets is None:
            return D * D + len(resolvents.nodes) * (D + C)
        rank, samples, _ = offsets.values.shape
        return D * D + len(resolvents.grid) * (D + rank) + rank * samples * C

    @cached_property
    def _resolvents(self) -> Resolvents:
        """Return B(τ) at the nodes with the weights that interpolate it at each a/δ; float64."""
        hessian = (self.class_precision, self.class_diagonal, self.class_vectors, self.class_values)
        return Resolvents.between(self.feature_values / self.prior_precision, *hessian)

    def _weights(self, spectrum: Tensor) -> Tensor:
        """Return the weights w (N, V) of the resolvents in the covariance, from the spectrum of φ."""
        return spectrum @ (self._resolvents.weights / self.prior_precision).to(spectrum.dtype)

    def _variances_at(self, a: Tensor) -> Tensor:
        """Return M (len(a), J), the variance at the eigenvalues of the grid of a unit feature with eigenvalue a."""
        return 1 / (torch.outer(a, self._resolvents.grid) + self.prior_precision)

    def _basis(self) -> tuple[Tensor, Tensor]:
        """Return the map (J, R) from √g to its coordinates, and the weights (V, R) of the resolvents in each.

        As in `kronecker`, the leading directions are those of √M relative to the size of √g on the training data.
        They are constants in δ: the coefficients are differentiable, and almost nothing lies outside the directions.
        """
        a = self.feature_values
        size = (a.clamp_min(1e-30) @ self._variances_at(a)).sqrt().detach()
        nodes, grid = self._resolvents.nodes, self._resolvents.grid
        resolvents = 1 / (1 + torch.outer(nodes, grid))
        curves = resolvents[nodes >= 0].sqrt() / size
        leading = leading_directions(curves)
        return leading / size[:, None], torch.linalg.pinv((resolvents / size).T, rtol=1e-8) @ leading


_CHUNK = 1 << 22
"""Number of weights that are sampled at once."""
