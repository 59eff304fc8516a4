"""Class-conditional Gaussian density of an exit's features: how familiar an input is.

    log p(φ) = log Σ_c π_c N(φ; μ_c, Σ),   π_c = n_c/n,   Σ = (1/n) Σ_n (φ_n − μ_{y_n})(φ_n − μ_{y_n})ᵀ + ε I

The classes share Σ, as in Lee et al. 2018: a covariance per class, as in Mukhoti et al. 2023 (DDU), whose score
this is, needs more examples of every class than it has features, and C·D² numbers. The ridge
ε = ridge · tr(Σ)/D keeps directions that never varied (dead units, n < D) from deciding alone.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from suffice import batches
from suffice.attach.plain import described, from_loader, restored
from suffice.batches import Loader
from suffice.network import ExitNetwork, State, check_finite, placement
from suffice.storage.fingerprint import fingerprint
from suffice.storage.parts import Parts, Range
from suffice.storage.seal import Seal
from suffice.storage.stored import Stored
from suffice.twin import inference
from suffice.utils.modes import default_modes, full_precision

_EPS = torch.finfo(torch.float64).eps
_LOGARITHM = 745.0
"""Greatest size of a logarithm, that of the least float64: each is rounded by at most ε times it, a sum of n of them
by n times as much for each of its terms, and each probability by ε times the size of its logarithm."""

RIDGE = 1e-3
"""A direction that never varied counts as one with a thousandth of the mean variance."""


@dataclass(frozen=True)
class Statistics:
    """Sums over examples, float64; merge by adding.

    Attributes:
        counts: n_c, (C,).
        sums: Σ φ of each class, (C, D).
        products: Σ φφᵀ, (D, D).
    """

    counts: Tensor
    sums: Tensor
    products: Tensor


def init(features: int, classes: int, device: torch.device | str = "cpu") -> Statistics:
    """Statistics of no example, for φ of width `features`."""
    shapes = (classes,), (classes, features), (features, features)
    return Statistics(*(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes))


def update(statistics: Statistics, phi: Tensor, labels: Tensor) -> Statistics:
    """Add one batch: phi (N, D), labels (N,) int64 in [0, C)."""
    phi = phi.double()
    return Statistics(
        statistics.counts + torch.bincount(labels, minlength=len(statistics.counts)),
        statistics.sums.index_add(0, labels, phi),
        statistics.products + phi.T @ phi,
    )


def merge(a: Statistics, b: Statistics) -> Statistics:
    """Statistics of the examples of both."""
    return Statistics(a.counts + b.counts, a.sums + b.sums, a.products + b.products)


@dataclass(frozen=True)
class Density(Stored):
    """A mixture of Gaussians with one covariance, in coordinates in which that is the identity. float64.

    Attributes:
        log_priors: log π_c, (C,); −∞ for a class that was never seen.
        whitening: W with W Wᵀ = Σ⁻¹, (D, D).
        means: μ_c W, (C, D).
        log_scale: log of the Gaussians' greatest density, −(D log 2π + log det Σ)/2, a scalar tensor.
    """

    log_priors: Tensor
    whitening: Tensor
    means: Tensor
    log_scale: Tensor

    @classmethod
    def fit(cls, statistics: Statistics, ridge: float = RIDGE) -> "Density":
        """Density of the examples summed in `statistics`.

        Args:
            statistics: of one example or more.
            ridge: what is added to each variance, > 0, in units of their mean.

        Raises:
            ValueError: if there is no example, features do not vary within the classes, or ridge ≤ 0.
        """
        if not ridge > 0:
            raise ValueError(f"expected a ridge above 0, got {ridge}")
        n, width = statistics.counts.sum(), len(statistics.products)
        if n == 0:
            raise ValueError("expected statistics of at least one example, got none")
        means = statistics.sums / statistics.counts.clamp_min(1)[:, None]
        moments = statistics.products / n
        covariance = moments - statistics.sums.T @ means / n
        # What is left of equal features after subtracting their squares is rounding.
        if not bool((covariance.diagonal() > 1e-12 * moments.diagonal()).any()):
            raise ValueError(
                f"expected features that vary within their classes, got {int(n)} examples whose {width} features "
                "are the same in each class; pass more examples, and the features before they collapse"
            )
        values, vectors = torch.linalg.eigh(covariance)
        values = values.clamp_min(0)
        values = values + ridge * values.mean()
        whitening = vectors / values.sqrt()
        log_scale = -(width * math.log(2 * math.pi) + values.log().sum()) / 2
        return cls((statistics.counts / n).log(), whitening, means @ whitening, log_scale)

    def log_joint(self, phi: Tensor) -> Tensor:
        """Logarithms of π_c N(φ; μ_c, Σ) of φ (N, D) for each class, (N, C), float64, nats."""
        distances = torch.cdist(phi.double() @ self.whitening, self.means)
        return self.log_priors + self.log_scale - distances.square() / 2

    def log_density(self, phi: Tensor) -> Tensor:
        """Log-density of φ (N, D), (N,), float64, nats; higher is more like what was fitted."""
        return self.log_joint(phi).logsumexp(dim=1)

    def to(self, device: torch.device | str) -> "Density":
        """The same on another device."""
        return Density(**{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Configuration and tensors of an artifact."""
        return {}, self.tensors()

    @classmethod
    def from_parts(cls, parts: Parts) -> "Density":
        """The reverse of `parts`."""
        parts.floating = torch.float64
        log_priors = parts.tensor("log_priors", "C", Range(most=0), also=(-math.inf,))
        log_sum = float(log_priors.logsumexp(dim=0))
        if not abs(log_sum) <= _EPS * (_LOGARITHM + len(log_priors)):
            parts.refuse_tensor("log_priors", "of probabilities that sum to 1", f"a sum of {math.exp(log_sum):g}")
        whitening, means = parts.tensor("whitening", "D D"), parts.tensor("means", "C D")
        log_scale, width = parts.tensor("log_scale", ""), len(whitening)
        # The columns are orthogonal, each an eigenvector over the root of its variance.
        expected = float(whitening.norm(dim=0).log().sum() - width * math.log(2 * math.pi) / 2)
        if not abs(float(log_scale) - expected) <= _EPS * 2 * width**2 * _LOGARITHM:
            parts.refuse_tensor("log_scale", f"that of the whitening, {expected:g}", f"{float(log_scale):g}")
        return cls(log_priors, whitening, means, log_scale)


@dataclass(frozen=True, eq=False)
class DensityScore:
    """A score of inputs: the density of their features at one exit. Made by `fit`.

    Attributes:
        network: the network, its weights untouched.
        exit: number of the exit, from 0.
        density: of its features.
        network_hash: `fingerprint` of the network's weights.
    """

    network: ExitNetwork
    exit: int
    density: Density
    network_hash: str
    _seal: Seal[ExitNetwork] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_seal", Seal(self.network, self.network_hash, [self.network]))

    def __call__(self, x: State) -> Tensor:
        """Log-density of φ(x), (N,), float64, nats: higher is more in-distribution.

        Raises:
            ValueError: if features are not finite, or the network's weights are no longer those at fitting.
        """
        with torch.no_grad(), full_precision(), self._seal.twin() as network:
            phi = _features(network, self.exit, x, 0)
        return self.density.log_density(phi)

    def check_weights(self) -> None:
        """Raise a ValueError unless the model's weights are, to the byte, those at fitting."""
        self._seal.check_weights()

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Configuration and tensors of an artifact; the network's weights stay with the network."""
        own, tensors = self.density.parts()
        network = {"network_hash": self.network_hash, "structure": self._seal.structure, **described(self.network)}
        return {**network, "exit": self.exit, **own}, tensors

    @classmethod
    def from_parts(cls, parts: Parts, network: nn.Module | None) -> "DensityScore":
        """The reverse of `parts`, for the network that it was made from; errors as `plain.restored`."""
        found, network_hash = restored(network, parts)
        exit = parts.count("exit", most=len(found.exits) - 1)
        parts.sizes = {"C": found.num_classes, "D": found.exit(exit).classifier.in_features}
        density = Density.from_parts(parts).to(placement(found)[0])
        return cls(found, exit, density, network_hash)


@default_modes()
def fit(network: nn.Module, loader: Loader, exit: int = -1, ridge: float = RIDGE) -> DensityScore:
    """The density of a network's features on the data that it was trained on, in one pass.

    Args:
        network: a trained network with exits, or a plain classifier (`suffice.attach.plain`).
        loader: labelled batches, without augmentation; read once.
        exit: at which exit, counted from 0, or from the end if negative.
        ridge: what is added to each variance, in units of their mean.

    Raises:
        ValueError: for an exit that is not there, an empty loader, labels out of range, features that are not
            finite, or that do not vary within the classes.
    """
    net, loader = from_loader(network, loader)
    count = len(net.exits)
    if not -count <= exit < count:
        raise ValueError(f"expected an exit from {-count} to {count - 1}, got {exit}")
    exit %= count
    statistics = None
    with inference(net) as twin:
        for batch, labels in batches.read_labeled(loader, net, net.num_classes):
            phi = _features(twin, exit, batch.inputs, batch.start)
            statistics = statistics or init(phi.shape[1], net.num_classes, phi.device)
            statistics = update(statistics, phi, labels)
    assert statistics is not None
    return DensityScore(net, exit, Density.fit(statistics, ridge), fingerprint(net))


def _features(network: ExitNetwork, exit: int, inputs: State, start: int) -> Tensor:
    """φ (N, D) at an exit, checked; nothing after it is computed."""
    state = inputs
    for stage in network.stages[:exit]:
        state = stage(state)
    _, phi = network.advance(exit, state)
    check_finite(phi, f"features at exit {exit}", start)
    return phi
