"""Class-conditional Gaussian density of an exit's features, a score for out-of-distribution inputs.

    log p(φ) = log Σ_c π_c N(φ; μ_c, Σ),   π_c = n_c/n,   Σ = (1/n) Σ_n (φ_n − μ_{y_n})(φ_n − μ_{y_n})ᵀ + ε I

The score is that of Mukhoti et al. 2023 (DDU), but the classes share Σ, as in Lee et al. 2018: a covariance per class
needs more examples of every class than there are features, and C·D² numbers. The ridge ε = ridge · tr(Σ)/D keeps
directions without variation (dead units, n < D) from dominating.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from suffice import batches
from suffice.attach.plain import from_loader, network_entries, restore_network
from suffice.batches import Loader
from suffice.inputs import prepare
from suffice.network import ExitNetwork, State, check_finite, placement
from suffice.storage.fingerprint import fingerprint
from suffice.storage.parts import Parts, Range
from suffice.storage.seal import Seal
from suffice.storage.serializable import Serializable
from suffice.twin import inference
from suffice.utils.modes import default_modes, full_precision

_EPS = torch.finfo(torch.float64).eps
_LOGARITHM = 745.0
"""Largest absolute logarithm, that of the smallest float64, for bounds on rounding.

Each logarithm has an error of at most ε times this, a sum of n of them n times as much for each term, and each
probability ε times its logarithm.
"""

RIDGE = 1e-3
"""Default ridge: a direction without variation gets a thousandth of the mean variance."""


@dataclass(frozen=True)
class Statistics:
    """Sums over examples, float64; they merge by addition.

    Attributes:
        counts: Number of examples n_c of each class, (C,).
        sums: Sum Σ φ over each class, (C, D).
        products: Sum Σ φφᵀ, (D, D).
    """

    counts: Tensor
    sums: Tensor
    products: Tensor


def init(features: int, classes: int, device: torch.device | str = "cpu") -> Statistics:
    """Return zero sums for features of width `features`."""
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
    """Add the sums of two disjoint sets of examples."""
    return Statistics(a.counts + b.counts, a.sums + b.sums, a.products + b.products)


@dataclass(frozen=True)
class Density(Serializable):
    """Mixture of Gaussians with one covariance, in whitened coordinates, float64.

    Attributes:
        log_priors: Log-frequencies log π_c of the classes, (C,); −∞ for a class without examples.
        whitening: Matrix W with W Wᵀ = Σ⁻¹, (D, D).
        means: Whitened class means μ_c W, (C, D).
        log_scale: Log-density of a Gaussian at its mean, −(D log 2π + log det Σ)/2, a scalar tensor.
    """

    log_priors: Tensor
    whitening: Tensor
    means: Tensor
    log_scale: Tensor

    @classmethod
    def fit(cls, statistics: Statistics, ridge: float = RIDGE) -> "Density":
        """Fit the density to summed examples.

        Args:
            statistics: Sums over one example or more.
            ridge: Addition to each variance, relative to their mean, above 0.

        Raises:
            ValueError: If there is no example, features do not vary within the classes, or ridge ≤ 0.
        """
        if not ridge > 0:
            raise ValueError(f"expected a ridge above 0, got {ridge}")
        n, width = statistics.counts.sum(), len(statistics.products)
        if n == 0:
            raise ValueError("expected statistics of at least one example, got none")
        means = statistics.sums / statistics.counts.clamp_min(1)[:, None]
        moments = statistics.products / n
        covariance = moments - statistics.sums.T @ means / n
        # If all features are equal within their class, only rounding remains after the subtraction.
        if not bool((covariance.diagonal() > 1e-12 * moments.diagonal()).any()):
            raise ValueError(
                f"expected features that vary within their classes, got {int(n)} examples whose {width} features "
                "are the same in each class; pass more examples, or choose an exit whose features vary"
            )
        values, vectors = torch.linalg.eigh(covariance)
        values = values.clamp_min(0)
        values = values + ridge * values.mean()
        whitening = vectors / values.sqrt()
        log_scale = -(width * math.log(2 * math.pi) + values.log().sum()) / 2
        return cls((statistics.counts / n).log(), whitening, means @ whitening, log_scale)

    def log_joint(self, phi: Tensor) -> Tensor:
        """Return log π_c N(φ; μ_c, Σ) of φ (N, D) for each class, (N, C), float64, in nats."""
        distances = torch.cdist(phi.double() @ self.whitening, self.means)
        return self.log_priors + self.log_scale - distances.square() / 2

    def log_density(self, phi: Tensor) -> Tensor:
        """Return the log-density (N,) of φ (N, D), float64, in nats; higher is more in-distribution."""
        return self.log_joint(phi).logsumexp(dim=1)

    def to(self, device: torch.device | str) -> "Density":
        """Return the density on another device."""
        return Density(**{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the configuration and the tensors of an artifact."""
        return {}, self.tensors()

    @classmethod
    def from_parts(cls, parts: Parts) -> "Density":
        """Restore a density from the parts of an artifact."""
        parts.floating = torch.float64
        log_priors = parts.tensor("log_priors", "C", Range(most=0), also=(-math.inf,))
        log_sum = float(log_priors.logsumexp(dim=0))
        if not abs(log_sum) <= _EPS * (_LOGARITHM + len(log_priors)):
            parts.refuse_tensor("log_priors", "of probabilities that sum to 1", f"a sum of {math.exp(log_sum):g}")
        whitening, means = parts.tensor("whitening", "D D"), parts.tensor("means", "C D")
        log_scale, width = parts.tensor("log_scale", ""), len(whitening)
        # The columns are orthogonal: eigenvectors divided by the square roots of their variances.
        expected = float(whitening.norm(dim=0).log().sum() - width * math.log(2 * math.pi) / 2)
        if not abs(float(log_scale) - expected) <= _EPS * 2 * width**2 * _LOGARITHM:
            parts.refuse_tensor("log_scale", f"that of the whitening, {expected:g}", f"{float(log_scale):g}")
        return cls(log_priors, whitening, means, log_scale)


@dataclass(frozen=True, eq=False)
class DensityScore:
    """Out-of-distribution score of inputs: the log-density of their features at one exit. Created by `fit`.

    Attributes:
        network: Network with unchanged weights.
        exit: Number of the exit, from 0.
        density: Density of the features.
        network_hash: `fingerprint` of the network's weights.
    """

    network: ExitNetwork
    exit: int
    density: Density
    network_hash: str
    _seal: Seal[ExitNetwork] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_seal", Seal(self.network, self.network_hash))

    def __call__(self, x: State) -> Tensor:
        """Return the log-density of φ(x), (N,), float64, in nats; higher is more in-distribution.

        Raises:
            ValueError: If features are not finite, or the network's weights have changed since `fit`.
        """
        with torch.no_grad(), full_precision(), self._seal.twin() as network:
            phi = _features(network, self.exit, prepare(x, self.network), 0)
        return self.density.log_density(phi)

    def check_weights(self) -> None:
        """Raise a ValueError unless the network's weights are identical to those at `fit`."""
        self._seal.check_weights()

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the configuration and the tensors of an artifact, without the network's weights."""
        configuration, tensors = self.density.parts()
        network = {"network_hash": self.network_hash, "structure": self._seal.structure}
        return {**network, **network_entries(self.network), "exit": self.exit, **configuration}, tensors

    @classmethod
    def from_parts(cls, parts: Parts, network: nn.Module | None) -> "DensityScore":
        """Restore a score from the parts of an artifact for its network; raises what `restore_network` raises."""
        exit_network, network_hash = restore_network(network, parts)
        exit = parts.count("exit", most=len(exit_network.exits) - 1)
        parts.sizes = {"C": exit_network.num_classes, "D": exit_network.exit(exit).classifier.in_features}
        density = Density.from_parts(parts).to(placement(exit_network)[0])
        return cls(exit_network, exit, density, network_hash)


@default_modes()
def fit(network: nn.Module, loader: Loader, exit: int = -1, ridge: float = RIDGE) -> DensityScore:
    """Fit the density of a network's features to its training data in one pass.

    Args:
        network: Trained network with exits, or a plain classifier (`suffice.attach.plain`).
        loader: Labeled training batches without augmentation; read once.
        exit: Number of the exit, counted from 0, or from the end if negative.
        ridge: Addition to each variance, relative to their mean.

    Returns:
        A `DensityScore`: a function from inputs to their log-density (N,).

    Raises:
        ValueError: If the exit does not exist, the loader is empty, labels are out of range, or features are not
            finite or do not vary within the classes.
    """
    net, loader = from_loader(network, loader)
    num_exits = len(net.exits)
    if not -num_exits <= exit < num_exits:
        raise ValueError(f"expected an exit from {-num_exits} to {num_exits - 1}, got {exit}")
    exit %= num_exits
    statistics = None
    with inference(net) as twin:
        for batch, labels in batches.read_labeled(loader, net, net.num_classes):
            phi = _features(twin, exit, batch.inputs, batch.start)
            statistics = statistics or init(phi.shape[1], net.num_classes, phi.device)
            statistics = update(statistics, phi, labels)
    assert statistics is not None
    return DensityScore(net, exit, Density.fit(statistics, ridge), fingerprint(net))


def _features(network: ExitNetwork, exit: int, inputs: State, start: int) -> Tensor:
    """Compute the features φ (N, D) of an exit, without later stages, and check that they are finite."""
    state = inputs
    for stage in network.stages[:exit]:
        state = stage(state)
    _, phi = network.advance(exit, state)
    check_finite(phi, f"features at exit {exit}", start)
    return phi
