"""Comparisons of one thing with and without a posterior, and what their cases share."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import suffice
from suffice.batches import Loader
from suffice.calibration.calibrated import Calibrated
from suffice.network import State

Loss = Callable[[Any, Tensor], Tensor]
"""Function from the outputs of a network and the targets of a batch to a scalar."""

STEPS, RATE, HIDDEN = 300, 1e-2, 64
"""Steps and learning rate of a training on all examples at once, and width of its hidden layer."""


@dataclass(frozen=True)
class Comparison:
    """One measure of one seed, with and without the posterior.

    Attributes:
        posterior: What uses the posterior.
        instead_of: The same thing without it.
        measure: Name of the measure.
        without: Its value without the posterior.
        having: Its value with the posterior.
    """

    posterior: str
    instead_of: str
    measure: str
    without: float
    having: float


def classifier(features: int, outputs: int, seed: int) -> nn.Module:
    """Return a network with one hidden layer for flat inputs."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, outputs))


def fit(network: nn.Module, x: State, y: Tensor, loss: Loss = cross_entropy) -> nn.Module:
    """Train a network on all examples at once, with AdamW and its default weight decay, and return it."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(network(x), y).backward()
        optimizer.step()
    return network.eval()


def ridge(x: Tensor, y: Tensor, penalty: float = 1.0) -> nn.Linear:
    """Fit a linear regression of targets (N, 1) with a penalty on the squares of all weights but the bias."""
    from sklearn.linear_model import Ridge

    solved = Ridge(alpha=penalty).fit(x.numpy(), y[:, 0].numpy())
    model = nn.Linear(x.shape[1], 1)
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(solved.coef_)[None])
        model.bias.fill_(float(solved.intercept_))
    return model.eval()


def rows_per_class(labels: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return `count` random rows of each class, and all other rows, in random order."""
    order = torch.randperm(len(labels), generator=generator)
    counts = torch.zeros(int(labels.max()) + 1, dtype=torch.long)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for row in order.tolist():
        if counts[labels[row]] < count:
            counts[labels[row]] += 1
            chosen[row] = True
    return order[chosen[order]], order[~chosen[order]]


def calibrate(
    network: nn.Module, train: Loader | None, validation: Loader | None, seed: int, **choices: Any
) -> Calibrated:
    """Calibrate without the warnings of values at an edge of their range, which few examples cause often."""
    generator = torch.Generator().manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return suffice.calibrate(network, train, validation, generator=generator, **choices)
