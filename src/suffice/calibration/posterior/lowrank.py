"""Kronecker posterior for tens of thousands of classes: diagonal plus low rank on the class side.

Precision U ⊗ A + δ diag(γ) ⊗ I as in `kronecker`, with A (D, D) the mean second moment of the features, exact, and
the summed Hessian U (C, C) never formed: it is told from its diagonal and a sketch (`sketch`), both linear in the
data, as T^½ (I + Q diag(υ − 1) Qᵀ) T^½ with T = diag(t) and Q (C, K); exact for few classes.

The covariance is a mixture, over the feature eigenvalues a, of resolvents of U. They are taken at a few dozen nodes τ
and interpolated (`resolvents`):

    B(τ) = (diag(γ) + τU)⁻¹,   Cov[f(x)] = Σ_i ψ_i² B(a_i/δ)/δ ≈ Σ_r w_r(x) B(τ_r),   ψ = Rᵀφ,   A = R diag(a) Rᵀ

Each is a diagonal plus rank K by Woodbury, so that nothing of size C² is ever held. φ is projected in float64, as in
`kronecker`.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from suffice.calibration.posterior import sketch as sketches
from suffice.calibration.posterior.curvature import CurvatureFn, softmax
from suffice.calibration.posterior.gaussian import Gaussian
from suffice.calibration.posterior.moments import Moments, Offsets, standard_normal_like
from suffice.calibration.posterior.orthonormal import check_orthonormal
from suffice.calibration.posterior.resolvents import GRID, Resolvents
from suffice.storage.parts import INVERTIBLE, NOT_NEGATIVE, POSITIVE, Parts, Range


@dataclass(frozen=True)
class Statistics:
    """Sums over examples, float64; merge by adding.

    Attributes:
        features: Σ φφᵀ, (D, D).
        diagonal: h, the diagonal of U = Σ diag(p) − ppᵀ, (C,).
        sketch: Y = Σ (ppᵀ − diag(p²)) Ω, (C, L), with Ω the signs that follow from C and L.
        count: n, the examples seen.
    """

    features: Tensor
    diagonal: Tensor
    sketch: Tensor
    count: int


def init(
    features: int, classes: int, device: torch.device | str = "cpu", columns: int = sketches.COLUMNS
) -> Statistics:
    """Statistics of no example, for φ of width `features` (its constant 1 for a bias included)."""
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
    """Statistics of the examples of both."""
    return Statistics(a.features + b.features, a.diagonal + b.diagonal, a.sketch + b.sketch, a.count + b.count)


def widen(statistics: Statistics, classes: int) -> Statistics:
    """Statistics of the same examples with `classes` classes, the new ones last, of which none had anything."""
    own = len(statistics.diagonal)
    if classes < own:
        raise ValueError(f"expected at least the {own} classes of the statistics, got {classes}")
    diagonal = torch.cat([statistics.diagonal, statistics.diagonal.new_zeros(classes - own)])
    return replace(statistics, diagonal=diagonal, sketch=sketches.widen(statistics.sketch, classes))


def memory(features: int, classes: int) -> int:
    """Bytes of the sums and their decomposition, about."""
    return 8 * (4 * features**2 + 8 * classes * min(sketches.COLUMNS, classes))


@dataclass(frozen=True)
class Posterior(Gaussian):
    """A Gaussian over the classifier's weights, in the features' eigenbasis. float64.

    Attributes:
        diagonal: h, (C,), and
        sketch: Y, (C, L), of `Statistics`, so that examples can be added.
        class_diagonal: t, (C,).
        class_vectors: Q, (C, K), orthonormal columns.
        class_values: υ, (K,), from 0 to 2.
        feature_values: a, (D,), eigenvalues of the mean feature moment.
        feature_vectors: R, (D, D), in columns.
        class_precision: γ, (C,), the classes' prior precisions relative to δ.
        count: n.
        prior_precision: δ, a scalar tensor; differentiable.
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
        """Posterior of the examples summed in `statistics`; decomposed in float64.

        Args:
            statistics: sums over the examples.
            prior_precision: δ.
            class_precision: γ (C,), relative to δ; None for 1.
        """
        h, Y = statistics.diagonal.clamp_min(0), statistics.sketch
        t, Q, values = sketches.recover(h, Y)
        a, R = torch.linalg.eigh(statistics.features / statistics.count)
        delta = torch.as_tensor(prior_precision, dtype=torch.float64, device=a.device)
        gamma = torch.ones_like(h) if class_precision is None else class_precision.to(h)
        return cls(h, Y, t, Q, values, a.clamp_min(0), R, gamma, statistics.count, delta)

    def refit(self, statistics: Statistics) -> "Posterior":
        """Posterior of other statistics under the same prior; classes that they have more of get γ = 1."""
        return self.fit(statistics, self.prior_precision, self._widened(len(statistics.diagonal)))

    def statistics(self) -> Statistics:
        """The sums that it was fitted to, to rounding."""
        features = self.count * (self.feature_vectors * self.feature_values) @ self.feature_vectors.T
        return Statistics(features, self.diagonal, self.sketch, self.count)

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Configuration and tensors of an artifact."""
        return {"structure": self.structure, "count": self.count}, self.tensors()

    @classmethod
    def from_parts(cls, parts: Parts) -> "Posterior":
        """The reverse of `parts`."""
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
    def noise(self) -> int:
        """Standard normals that one joint sample of the logits takes: C."""
        return len(self.class_diagonal)

    def _log_det(self) -> Tensor:
        """The sum Σ_i log det(I + (a_i/δ) Γ^-½UΓ^-½), Γ = diag(γ)."""
        log_dets = self._resolvents.log_dets - self.class_precision.log().sum()
        total: Tensor = (self._resolvents.weights @ log_dets).sum()
        return total

    def spectrum(self, phi: Tensor) -> Tensor:
        """ψ², (N, D), in the type of φ (N, D): all that the posterior needs of it, whatever the prior."""
        return (phi.double() @ self.feature_vectors).square().to(phi.dtype)

    def covariance(self, phi: Tensor) -> Tensor:
        """Covariance of the logits, (N, C, C)."""
        eye = torch.eye(self.noise, dtype=torch.float64, device=phi.device)
        return self._resolvents.combined(self._weights(self.spectrum(phi)).double().T, eye).to(phi.dtype)

    def moments(self, phi: Tensor, logits: Tensor) -> Moments:
        """Moments of the logits at φ (N, D), whose mean is the network's own logits (N, C)."""
        return Moments(logits, self.variance(self.spectrum(phi)))

    def variance(self, spectrum: Tensor) -> Tensor:
        """Variance (N, C) of the logits, from the spectrum of φ."""
        return self._weights(spectrum) @ self._resolvents.diagonals[0].to(spectrum.dtype)

    def visible_variance(self, spectrum: Tensor) -> Tensor:
        """Variance (N, C) of the logits less their mean over the classes, from the spectrum of φ."""
        return self._weights(spectrum) @ self._resolvents.diagonals[1].to(spectrum.dtype)

    def joint_samples(self, phi: Tensor, samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Deviations (N, S, C) of the logits at φ (N, D): S draws of the weights, each the same for every row.

        Along feature eigenvector i the weights have the precision Π_i = δΓ + a_i U, and y_i = (δΓ)^½ z + a_i^½ L z'
        with LLᵀ = U has it for its covariance, so that Π_i⁻¹ y_i has its inverse.
        """
        at_once = max(1, _DRAWN // (len(self.feature_values) * self.noise))
        counts = [min(at_once, samples - first) for first in range(0, samples, at_once)]
        psi = phi.double() @ self.feature_vectors
        return torch.cat([self._draws(psi, count, generator) for count in counts], dim=1).to(phi.dtype)

    def _draws(self, psi: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
        """A few joint samples (N, S, C) at ψ (N, D)."""
        resolvents, delta = self._resolvents, self.prior_precision
        pulls = psi.new_empty(self.noise, len(self.feature_values), count)
        z, pulled = standard_normal_like(pulls, generator), standard_normal_like(pulls, generator)
        y = (delta * self.class_precision).sqrt()[:, None, None] * z
        y += self.feature_values.sqrt()[:, None] * resolvents.rooted(pulled.flatten(1)).view_as(pulled)
        total = psi.new_zeros(self.noise, len(psi) * count)
        for weight, resolvent in zip(resolvents.weights.T / delta, resolvents, strict=True):
            total += resolvent.apply(torch.einsum("nd,cds->cns", psi * weight, y).flatten(1))
        return total.view(self.noise, len(psi), count).permute(1, 2, 0)

    def sample_offsets(self, normals: Tensor) -> Offsets:
        """Offsets of joint samples from standard normals (S, noise).

        With g(u) the variance at x along a class eigenvector of eigenvalue u, sample s is √g(U) z_s. √g is put
        together from the few functions of u that it barely leaves, whatever x is, and these from resolvents, as
        1/(1 + τu): `basis` reads its coordinates off √g on a grid of u.
        """
        basis, shares = self._basis()
        z = (normals.to(basis) * self.class_precision.sqrt()).T
        values = self._resolvents.combined(shares, z)
        return Offsets(basis, (values - values.mean(dim=1, keepdim=True)).mT)

    def coefficients(self, spectrum: Tensor, offsets: Offsets) -> Tensor:
        """Coordinates (N, R) of √g in the basis of the offsets; differentiable in δ."""
        M = self._variances_at(self.feature_values).to(spectrum.dtype)
        return (spectrum @ M).sqrt() @ offsets.basis.to(spectrum.dtype)

    def macs(self, offsets: Offsets | None) -> int:
        """Multiply-adds per example of joint samples, or of the variance where there are none."""
        D, C, resolvents = len(self.feature_values), self.noise, self._resolvents
        if offsets is None:
            return D * D + len(resolvents.nodes) * (D + C)
        rank, samples, _ = offsets.values.shape
        return D * D + len(resolvents.grid) * (D + rank) + rank * samples * C

    @cached_property
    def _resolvents(self) -> Resolvents:
        """B(τ) and how it is interpolated at each a/δ; float64."""
        own = (self.class_precision, self.class_diagonal, self.class_vectors, self.class_values)
        return Resolvents.between(self.feature_values / self.prior_precision, *own)

    def _weights(self, spectrum: Tensor) -> Tensor:
        """w, (N, V): weights of the resolvents in the covariance, from the spectrum of φ."""
        return spectrum @ (self._resolvents.weights / self.prior_precision).to(spectrum.dtype)

    def _variances_at(self, a: Tensor) -> Tensor:
        """M (len(a), J): variance at the eigenvalues of the grid for a unit feature of eigenvalue a."""
        return 1 / (torch.outer(a, self._resolvents.grid) + self.prior_precision)

    def _basis(self) -> tuple[Tensor, Tensor]:
        """What reads the coordinates of √g (J, R), and what each coordinate takes of the resolvents (nodes, R).

        As in `kronecker`, √M is taken relative to the size of √g on the training data, and its leading directions
        kept. Not differentiated in δ: the coefficients are, and hardly anything lies outside the directions.
        """
        a = self.feature_values
        size = (a.clamp_min(1e-30) @ self._variances_at(a)).sqrt().detach()
        nodes, grid = self._resolvents.nodes, self._resolvents.grid
        resolvents = 1 / (1 + torch.outer(nodes, grid))
        curves = resolvents[nodes >= 0].sqrt() / size
        _, strengths, directions = torch.linalg.svd(curves / curves.norm(dim=1, keepdim=True), full_matrices=False)
        leading = directions[: int((strengths > _BASIS_TOLERANCE * strengths[0]).sum())].T
        return leading / size[:, None], torch.linalg.pinv((resolvents / size).T, rtol=1e-8) @ leading


_DRAWN = 1 << 22
"""Weights drawn at once."""

_BASIS_TOLERANCE = 1e-3
"""Singular values of the normalised √M kept: far below the sampling error of any affordable S."""
