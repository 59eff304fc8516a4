"""Kronecker-factored posterior over one exit's classifier.

With U (C, C) the summed softmax Hessian and A (D, D) the mean second moment of the features, the precision is

    exact prior     U ⊗ A + δI
    factored prior  (U/√n + √δ I) ⊗ (√n A + √δ I)            (the paper's; n examples)

Both are diagonal in the product of the eigenbases, U = Q diag(u) Qᵀ and A = R diag(a) Rᵀ. With ψ = Rᵀφ

    Cov[f(x)] = Q diag(g) Qᵀ,   g = (ψ²) M,   M_ij = 1/(u_j a_i + δ)   or   1/((u_j/√n + √δ)(√n a_i + √δ))

so no Jacobian is formed, no example needs a factorisation, and a new δ only needs a new M. A relative precision
γ_c of each class, prior δ diag(γ) ⊗ I, is the same in units of Γ^-½: U ← Γ^-½UΓ^-½ before and Q ← Γ^-½Q after.

Along a direction that the training features lack, M is 1/δ, up to κ = (u_max a_max + δ)/δ times as much as along the
strongest. So φ is projected in float64 whatever its type: in float32 what rounding leaves of ‖φ‖ there would count as
variance. What follows are sums of squares, which lose nothing in the type of φ.
Ritter et al. 2018 (Kronecker Laplace); Meronen et al. 2024 (the factored prior on exits).
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

from suffice.calibration.posterior.curvature import CurvatureFn, softmax
from suffice.calibration.posterior.gaussian import Gaussian
from suffice.calibration.posterior.moments import Moments, Offsets, standard_normal_like
from suffice.calibration.posterior.orthonormal import check_orthonormal
from suffice.storage.parts import INVERTIBLE, NOT_NEGATIVE, POSITIVE, Parts
from suffice.storage.stored import stored

Prior = Literal["exact", "factored"]


@dataclass(frozen=True)
class Statistics:
    """Sums over examples, float64; merge by adding.

    Attributes:
        features: Σ φφᵀ, (D, D).
        hessian: Σ diag(p) − ppᵀ, (C, C).
        count: n, the examples seen.
    """

    features: Tensor
    hessian: Tensor
    count: int


def init(features: int, classes: int, device: torch.device | str = "cpu") -> Statistics:
    """Statistics of no example, for φ of width `features` (its constant 1 for a bias included)."""
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
    """Statistics of the examples of both."""
    return Statistics(a.features + b.features, a.hessian + b.hessian, a.count + b.count)


def widen(statistics: Statistics, classes: int) -> Statistics:
    """The same statistics for a head of more classes, the new ones behind, of which nothing was seen."""
    more = classes - len(statistics.hessian)
    return replace(statistics, hessian=pad(statistics.hessian, (0, more, 0, more)))


def memory(features: int, classes: int) -> int:
    """Bytes of the sums and their decomposition, about."""
    return 8 * 4 * (features**2 + classes**2)


@dataclass(frozen=True)
class Posterior(Gaussian):
    """A Gaussian over the classifier's weights, in its eigenbasis. float64.

    Attributes:
        class_values: u, (C,), eigenvalues of the summed Hessian, in units of Γ^-½.
        class_vectors: Q, (C, C), in columns; QQᵀ = Γ⁻¹.
        feature_values: a, (D,), eigenvalues of the mean feature moment.
        feature_vectors: R, (D, D), in columns; where it was `compressed`, (D, k), with k + 1 values: the last
            stands for all that is orthogonal to them.
        class_precision: γ, (C,), the classes' prior precisions relative to δ.
        count: n.
        prior_precision: δ, a scalar tensor; differentiable.
        prior: "exact" or "factored".
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
        """Posterior of the examples summed in `statistics`; decomposed in float64.

        Args:
            statistics: sums over the examples.
            prior_precision: δ.
            prior: how δ enters.
            class_precision: γ (C,), relative to δ; None for 1.
        """
        U = statistics.hessian
        gamma = U.new_ones(len(U)) if class_precision is None else class_precision.to(U)
        root = gamma.sqrt()
        u, Q = torch.linalg.eigh(U / torch.outer(root, root))
        a, R = torch.linalg.eigh(statistics.features / statistics.count)
        delta = torch.as_tensor(prior_precision, dtype=torch.float64, device=u.device)
        return cls(u.clamp_min(0), Q / root[:, None], a.clamp_min(0), R, gamma, statistics.count, delta, prior)

    def refit(self, statistics: Statistics) -> "Posterior":
        """Posterior of other statistics under the same prior; classes that they have more of get γ = 1."""
        return self.fit(statistics, self.prior_precision, self.prior, self._widened(len(statistics.hessian)))

    def statistics(self) -> Statistics:
        """The sums that it was fitted to, put together again to rounding."""
        Q, R = self.class_precision[:, None] * self.class_vectors, self.feature_vectors
        moment = (R * self.feature_values) @ R.T
        return Statistics(self.count * moment, (Q * self.class_values) @ Q.T, self.count)

    def compressed(self) -> "Posterior":
        """A posterior for serving at this δ, whose variances differ by at most 2 %: fewer features are projected.

        The widest window of feature eigenvalues that hardly change M is replaced by its mean; the energy of φ in
        it is what is left of ‖φ‖². Where u a ≪ δ for most a, few features remain. The difference is rounded by at
        most D ε ‖φ‖², which counts M_window where the variance is at least ‖φ‖² M_ij at the greatest a: where that
        could be seen, nothing is compressed.
        """
        largest = self._variances[:, -1].contiguous()  # of the greatest u, which a moves most; descending
        last = torch.searchsorted(-largest, -largest / _COMPRESSION, right=True)
        widths = last - torch.arange(len(last), device=last.device)
        first = int(widths.argmax())
        window = slice(first, first + int(widths[first]))
        a, R = self.feature_values, self.feature_vectors
        kept = torch.ones_like(a, dtype=torch.bool)
        kept[window] = False
        values = torch.cat([a[kept], a[window].mean()[None]])
        amplified = (self._variances_at(values[-1:]) / self._variances[-1]).max()
        if len(a) * torch.finfo(a.dtype).eps * float(amplified) > _ROUNDING:
            return self
        return replace(self, feature_values=values, feature_vectors=R[:, kept].contiguous())

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Configuration and tensors of an artifact."""
        configuration = {"structure": self.structure, "prior": self.prior, "count": self.count}
        return configuration, self.tensors()

    @classmethod
    def from_parts(cls, parts: Parts) -> "Posterior":
        """The reverse of `parts`."""
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
    def noise(self) -> int:
        """Standard normals that one joint sample of the logits takes: C."""
        return len(self.class_values)

    @cached_property
    def _variances(self) -> Tensor:
        return self._variances_at(self.feature_values)

    @cached_property
    def _exact_factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """M, and the squares of the class vectors as they are and centred over the classes, transposed."""
        Q = self.class_vectors
        return self._variances, stored(Q.square().T), stored((Q - Q.mean(dim=0)).square().T)

    @cached_property
    def _single_factors(self) -> tuple[Tensor, Tensor, Tensor]:
        M, squares, visible = (factor.float() for factor in self._exact_factors)
        return M, squares, visible

    def _factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """`_exact_factors` in the type of a spectrum."""
        return self._single_factors if dtype == torch.float32 else self._exact_factors

    def _variances_at(self, a: Tensor) -> Tensor:
        """M (len(a), C): variance along each class eigenvector for a unit feature of eigenvalue a."""
        u, delta = self.class_values, self.prior_precision
        if self.prior == "exact":
            return 1 / (torch.outer(a, u) + delta)
        n, root = self.count**0.5, delta.sqrt()
        return torch.outer(1 / (n * a + root), 1 / (u / n + root))

    def _log_det(self) -> Tensor:
        return -(self.prior_precision * self._variances).log().sum()

    def spectrum(self, phi: Tensor) -> Tensor:
        """ψ², (N, D), in the type of φ (N, D): all that the posterior needs of it, whatever the prior."""
        exact = phi.double()
        squares = (exact @ self.feature_vectors).square()
        if squares.shape[1] < len(self.feature_values):
            rest = exact.square().sum(dim=1) - squares.sum(dim=1)
            squares = torch.cat([squares, rest.clamp_min(0)[:, None]], dim=1)
        return squares.to(phi.dtype)

    def covariance(self, phi: Tensor) -> Tensor:
        """Covariance of the logits, (N, C, C)."""
        g, Q = self.spectrum(phi) @ self._variances.to(phi.dtype), self.class_vectors.to(phi.dtype)
        return torch.einsum("ij,nj,kj->nik", Q, g, Q)

    def moments(self, phi: Tensor, logits: Tensor) -> Moments:
        """Moments of the logits at φ (N, D), whose mean is the network's own logits (N, C)."""
        return Moments(logits, self.variance(self.spectrum(phi)))

    def variance(self, spectrum: Tensor) -> Tensor:
        """Variance (N, C) of the logits, from the spectrum of φ."""
        M, squares, _ = self._factors(spectrum.dtype)
        return (spectrum @ M) @ squares

    def visible_variance(self, spectrum: Tensor) -> Tensor:
        """Variance (N, C) of the logits less their mean over the classes, from the spectrum of φ."""
        M, _, visible = self._factors(spectrum.dtype)
        return (spectrum @ M) @ visible

    def joint_samples(self, phi: Tensor, samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Deviations (N, S, C) of the logits at φ (N, D): S draws of the weights, each the same for every row."""
        psi, deviation = phi.double() @ self.feature_vectors, self._variances.sqrt()
        draws = [psi @ (deviation * standard_normal_like(deviation, generator)) for _ in range(samples)]
        return (torch.stack(draws, dim=1) @ self.class_vectors.T).to(phi.dtype)

    def sample_offsets(self, normals: Tensor) -> Offsets:
        """Offsets of joint samples from standard normals (S, noise).

        √g(x) over the classes' eigenvalues, relative to its size on the training data, is a smooth function
        that barely leaves a space of a few dimensions, whatever x is: `basis` reads its coordinates off √g,
        and sample s is Q(√g ⊙ (Γ^½Q)ᵀz_s) with √g put together from them. The root of the covariance is the
        symmetric one, nearest to a diagonal, so that the normals stay as well spread for each class as they were
        made; and free of the signs of Q's columns.
        """
        size, directions = self._basis()
        turned = normals.to(size) @ (self.class_precision.sqrt()[:, None] * self.class_vectors)
        values = torch.einsum("jr,sj,cj->rsc", size * directions, turned, self.class_vectors)
        return Offsets(directions / size, values - values.mean(dim=-1, keepdim=True))

    def coefficients(self, spectrum: Tensor, offsets: Offsets) -> Tensor:
        """Coordinates (N, R) of √g in the basis of the offsets; differentiable in δ."""
        M, _, _ = self._factors(spectrum.dtype)
        return (spectrum @ M).sqrt() @ offsets.basis.to(spectrum.dtype)

    def macs(self, offsets: Offsets | None) -> int:
        """Multiply-adds per example of joint samples, or of the variance where there are none."""
        projection, C = self.feature_vectors.numel(), len(self.class_values)
        variance = projection + len(self.feature_values) * C
        if offsets is None:
            return variance + C * C
        rank, samples, _ = offsets.values.shape
        return variance + C * rank + rank * samples * C

    def _basis(self) -> tuple[Tensor, Tensor]:
        """Size of √g on the training data (C, 1), and the leading directions (C, R) of √M relative to it.

        Relative, so that class directions of little variance are as exact as those of much; except the
        all-ones direction, whose variance is the greatest and which no softmax can see. Taken over feature
        eigenvalues from 0 to the largest. Differentiable in δ through the size; the directions hardly move.
        """
        a, Q = self.feature_values, self.class_vectors
        visible = ((Q - Q.mean(dim=0)).norm(dim=0) / Q.norm(dim=0)).clamp_min(1e-3)
        size = (a.clamp_min(1e-30) @ self._variances).sqrt() / visible
        contrast = float((1 + self.class_values.max() * a.max() / self.prior_precision).detach())
        least = min(-8.0, -2 - math.log10(contrast))  # well below where u a = δ
        grid = torch.cat([a.new_zeros(1), a.max() * torch.logspace(least, 0, 63, dtype=torch.float32).to(a)])
        curves = self._variances_at(grid).sqrt() / size
        curves = curves / curves.norm(dim=1, keepdim=True)
        _, strengths, directions = torch.linalg.svd(curves.detach(), full_matrices=False)
        rank = int((strengths > _BASIS_TOLERANCE * strengths[0]).sum())
        return size[:, None], directions[:rank].T


_COMPRESSION = 1.02
"""Greatest ratio of variances that are served as one."""

_ROUNDING = 1e-6
"""Greatest share of a variance that may be rounding: a probability moves by less than a tenth of that."""

_BASIS_TOLERANCE = 1e-3
"""Singular values of the normalised √M kept: far below the sampling error of any affordable S."""
