"""Full posterior over one exit's classifier: every weight with every other.

The precision is H + δI with H = Σ_n (diag(d_n) − e_n e_nᵀ) ⊗ φ_n φ_nᵀ, (CD, CD). It is diagonalised once,
H = V diag(λ) Vᵀ, and a new δ only shifts λ:

    Cov[f(x)]_cc' = Σ_p (V_p φ)_c (V_p φ)_c' / (λ_p + δ),   V_p the p-th eigenvector as a matrix (C, D)

What the other structures approximate, for heads of up to a few thousand weights: (CD)² numbers are kept.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from suffice.calibration.curvature import Likelihood, softmax
from suffice.calibration.moments import Moments, Offsets


@dataclass(frozen=True)
class Statistics:
    """Sums over examples, float64; merge by adding.

    Attributes:
        hessian: H, (C, D, C, D).
        count: n, the examples seen.
    """

    hessian: Tensor
    count: int


def init(features: int, classes: int, device: torch.device | str = "cpu") -> Statistics:
    """Statistics of no example, for φ of width `features` (its constant 1 for a bias included)."""
    shape = (classes, features, classes, features)
    return Statistics(torch.zeros(shape, dtype=torch.float64, device=device), 0)


def update(statistics: Statistics, phi: Tensor, logits: Tensor, likelihood: Likelihood = softmax) -> Statistics:
    """Add one batch: phi (N, D), logits (N, C)."""
    phi, curvature = phi.double(), likelihood(logits)
    hessian = statistics.hessian.clone()
    blocks = torch.einsum("nc,ni,nj->cij", curvature.diagonal, phi, phi)
    hessian.diagonal(dim1=0, dim2=2).add_(blocks.permute(1, 2, 0))
    if curvature.rank_one is not None:
        outer = torch.einsum("nc,ni->nci", curvature.rank_one, phi).flatten(1)
        hessian -= (outer.T @ outer).reshape(hessian.shape)
    return Statistics(hessian, statistics.count + len(phi))


def merge(a: Statistics, b: Statistics) -> Statistics:
    """Statistics of the examples of both."""
    return Statistics(a.hessian + b.hessian, a.count + b.count)


def memory(features: int, classes: int) -> int:
    """Bytes of the sums and their decomposition, about."""
    return 8 * 4 * (features * classes) ** 2


@dataclass(frozen=True)
class Posterior:
    """A Gaussian over the classifier's weights, in its eigenbasis.

    Attributes:
        values: λ, (P,), P = C·D.
        vectors: V, (C, D, P).
        count: n.
        prior_precision: δ, a scalar tensor; differentiable.
    """

    values: Tensor
    vectors: Tensor
    count: int
    prior_precision: Tensor

    @classmethod
    def fit(cls, statistics: Statistics, prior_precision: float = 1.0) -> "Posterior":
        """Posterior of the examples summed in `statistics`; decomposed in float64."""
        classes, features = statistics.hessian.shape[:2]
        size = classes * features
        values, vectors = torch.linalg.eigh(statistics.hessian.reshape(size, size))
        delta = torch.as_tensor(prior_precision, dtype=torch.float64, device=values.device)
        return cls(values.clamp_min(0), vectors.reshape(classes, features, size), statistics.count, delta)

    def with_prior(self, prior_precision: float | Tensor) -> "Posterior":
        """The same posterior under another prior precision δ > 0; nothing is decomposed again."""
        delta = torch.as_tensor(prior_precision, dtype=self.values.dtype, device=self.values.device)
        return replace(self, prior_precision=delta)

    def to(self, device: torch.device, dtype: torch.dtype) -> "Posterior":
        """The same posterior on another device and in another type, for serving."""
        values, vectors = self.values.to(device, dtype), self.vectors.to(device, dtype)
        return Posterior(values, vectors, self.count, self.prior_precision.to(device, dtype))

    def compressed(self) -> "Posterior":
        """Itself: there is nothing to save."""
        return self

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Configuration and tensors of an artifact."""
        return {"structure": "full", "count": self.count}, {name: getattr(self, name) for name in _TENSORS}

    @classmethod
    def from_parts(cls, configuration: dict[str, Any], tensors: dict[str, Tensor]) -> "Posterior":
        """The reverse of `parts`."""
        return cls(count=configuration["count"], **{name: tensors[name] for name in _TENSORS})

    @property
    def noise(self) -> int:
        """Standard normals that one joint sample of the logits takes: C·D."""
        return len(self.values)

    def spectrum(self, phi: Tensor) -> Tensor:
        """φ (N, D) itself: all that the posterior needs of it, whatever the prior."""
        return phi

    def covariance(self, phi: Tensor) -> Tensor:
        """Covariance of the logits, (N, C, C)."""
        directions = torch.einsum("nd,cdp->ncp", phi, self.vectors)
        return (directions / (self.values + self.prior_precision)) @ directions.mT

    def moments(self, phi: Tensor, logits: Tensor) -> Moments:
        """Moments of the logits at φ (N, D), whose mean is the network's own logits (N, C)."""
        directions = torch.einsum("nd,cdp->ncp", phi, self.vectors)
        return Moments(logits, directions.square() @ (1 / (self.values + self.prior_precision)))

    def visible_variance(self, spectrum: Tensor) -> Tensor:
        """Variance (N, C) of the logits less their mean over the classes, from the spectrum of φ."""
        directions = torch.einsum("nd,cdp->ncp", spectrum, self.vectors - self.vectors.mean(dim=0))
        return directions.square() @ (1 / (self.values + self.prior_precision))

    def sample_offsets(self, normals: Tensor) -> Offsets:
        """Offsets of joint samples from standard normals (S, noise): deviations of the weights themselves."""
        scaled = normals.to(self.values) / (self.values + self.prior_precision).sqrt()
        values = torch.einsum("cdp,sp->dsc", self.vectors, scaled)
        basis = torch.eye(len(values), dtype=values.dtype, device=values.device)
        return Offsets(basis, values - values.mean(dim=-1, keepdim=True))

    def coefficients(self, spectrum: Tensor, offsets: Offsets) -> Tensor:
        """Coordinates (N, D) in the basis of the offsets: φ."""
        return spectrum

    def macs(self, offsets: Offsets | None) -> int:
        """Multiply-adds per example of joint samples, or of the variance where there are none."""
        return self.vectors.numel() if offsets is None else offsets.values.numel()


_TENSORS = ("values", "vectors", "prior_precision")
