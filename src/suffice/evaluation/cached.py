"""Cached features of every exit, so that tables take seconds: a network over them keeps the original costs.

The state is the list of the features φ_k (N, D) of all exits. Stages are identities, and exit k selects φ_k.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from suffice import batches
from suffice.batches import Loader
from suffice.calibration.statistics import exit_pass
from suffice.network import Exit, ExitNetwork
from suffice.twin import inference


@dataclass(frozen=True)
class Features:
    """Loader of a labeled set by its features at every exit.

    Attributes:
        phi: Features φ_k (N, D) of each exit.
        labels: Labels (N,).
        size: Number of examples in a batch.
    """

    phi: list[Tensor]
    labels: Tensor
    size: int = 500

    def __iter__(self) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Yield batches of features and labels, in order."""
        parts = zip(*(phi.split(self.size) for phi in self.phi), strict=True)
        for phi, labels in zip(parts, self.labels.split(self.size), strict=True):
            yield list(phi), labels

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.labels) // self.size)

    def shuffled(self, size: int, generator: torch.Generator) -> "ShuffledFeatures":
        """Return a loader of batches in a new random order at each pass."""
        return ShuffledFeatures(self, size, generator)

    def subset(self, rows: Tensor) -> "Features":
        """Select the examples `rows` (n,), in this order."""
        return Features([phi[rows] for phi in self.phi], self.labels[rows], self.size)


@dataclass(frozen=True)
class ShuffledFeatures:
    """Loader of features in random order.

    Attributes:
        features: Features to shuffle.
        size: Number of examples in a batch.
        generator: Random generator of the order.
    """

    features: Features
    size: int
    generator: torch.Generator

    def __iter__(self) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Yield the batches of one epoch."""
        for rows in torch.randperm(len(self.features.labels), generator=self.generator).split(self.size):
            yield [phi[rows] for phi in self.features.phi], self.features.labels[rows]


class SelectFeatures(nn.Module):
    """Module that selects the features of exit k from those of all exits."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, state: list[Tensor]) -> Tensor:
        """Return φ_k (N, D)."""
        return state[self.k]


def compute(network: ExitNetwork, loader: Loader) -> Features:
    """Compute the features of every exit for a whole loader, on the CPU; missing labels are −1."""
    phi: list[list[Tensor]] = [[] for _ in network.exits]
    labels = []
    with inference(network) as network:
        for batch in batches.read(loader, network):
            labels.append(torch.full((batch.size,), -1) if batch.labels is None else batch.labels.cpu())
            for k, features, _ in exit_pass(network, batch.inputs, batch.start):
                phi[k].append(features.float().cpu())
    return Features([torch.cat(parts) for parts in phi], torch.cat(labels))


def network_on_features(network: ExitNetwork) -> ExitNetwork:
    """Return a network over the features of another network, with its classifiers."""
    exits = [Exit(SelectFeatures(k), network.exit(k).classifier) for k in range(len(network.exits))]
    return ExitNetwork([nn.Identity() for _ in exits], exits)
