"""Features of every exit, computed once: a network over them makes a table in seconds, with the costs of the real one.

The state is the list of all features, φ_k (N, D) of exit k; stages do nothing, and exit k takes its own.
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
    """A labelled set at every exit; a loader.

    Attributes:
        phi: φ_k (N, D), for each exit.
        labels: (N,).
        size: examples in a batch.
    """

    phi: list[Tensor]
    labels: Tensor
    size: int = 500

    def __iter__(self) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Batches of features and labels, in order."""
        parts = zip(*(phi.split(self.size) for phi in self.phi), strict=True)
        for phi, labels in zip(parts, self.labels.split(self.size), strict=True):
            yield list(phi), labels

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.labels) // self.size)

    def shuffled(self, size: int, generator: torch.Generator) -> "ShuffledFeatures":
        """Batches for training, in another order at each pass."""
        return ShuffledFeatures(self, size, generator)

    def subset(self, rows: Tensor) -> "Features":
        """These examples (n,) alone, in this order."""
        return Features([phi[rows] for phi in self.phi], self.labels[rows], self.size)


@dataclass(frozen=True)
class ShuffledFeatures:
    """Features in random order; a loader."""

    features: Features
    size: int
    generator: torch.Generator

    def __iter__(self) -> Iterator[tuple[list[Tensor], Tensor]]:
        """One epoch."""
        for rows in torch.randperm(len(self.features.labels), generator=self.generator).split(self.size):
            yield [phi[rows] for phi in self.features.phi], self.features.labels[rows]


class Take(nn.Module):
    """Features of exit k, out of those of all exits."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, state: list[Tensor]) -> Tensor:
        """φ_k (N, D)."""
        return state[self.k]


def compute(network: ExitNetwork, loader: Loader) -> Features:
    """Features of every exit for a whole loader, on the CPU; labels are −1 where it has none."""
    phi: list[list[Tensor]] = [[] for _ in network.exits]
    labels = []
    with inference(network) as network:
        for batch in batches.read(loader, network):
            labels.append(torch.full((batch.size,), -1) if batch.labels is None else batch.labels.cpu())
            for k, features, _ in exit_pass(network, batch.inputs, batch.start):
                phi[k].append(features.float().cpu())
    return Features([torch.cat(parts) for parts in phi], torch.cat(labels))


def over(network: ExitNetwork) -> ExitNetwork:
    """A network over the features of another, with its classifiers."""
    exits = [Exit(Take(k), network.exit(k).classifier) for k in range(len(network.exits))]
    return ExitNetwork([nn.Identity() for _ in exits], exits)
