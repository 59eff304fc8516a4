"""Bundles that the servers serve, and the examples that they are sent, in one folder.

`half` holds the network with its exits, and a policy of half the cost of the last exit. `full` holds one graph: all
stages and the last exit alone, so that it does not pay for classifiers of exits that nothing stops at. `examples.npz`
holds inputs and labels.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import suffice
from suffice import data
from suffice.batches import Loader
from suffice.budget.policy import Policy
from suffice.calibration.calibrated import Calibrated
from suffice.network import ExitNetwork

HALF, FULL, EXAMPLES = "half", "full", "examples.npz"
_CLASSES, _COUNT = 4, 256


def pretrained(folder: Path) -> None:
    """Write the pretrained network for CIFAR-100 and the test part, whose order is random."""
    made, sets = suffice.models.pretrained("cifar100-msdnet-small"), data.load("cifar100", seed=0)
    validation = sets.validation.batches(250)
    test = list(sets.test.batches(250, shuffle=False))
    x, labels = (torch.cat(column) for column in zip(*test, strict=True))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    _write(folder, made.calibrated, made.policy, validation, x[order], labels[order])


def tiny(folder: Path) -> None:
    """Write a small network with random weights, for tests."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(_CLASSES, (2 * _COUNT,), generator=generator)
    x = 0.3 * torch.randn(2 * _COUNT, 1, 8, 8, generator=generator) + labels[:, None, None, None] / _CLASSES
    torch.manual_seed(0)
    network = suffice.models.convnet(num_classes=_CLASSES, widths=(4, 8, 8)).eval()
    validation = [(x[:_COUNT], labels[:_COUNT])]
    calibrated = suffice.calibrate(network, None, validation, structure=None)
    policy = suffice.allocate(calibrated, validation, budget=0.75)
    _write(folder, calibrated, policy, validation, x[_COUNT:], labels[_COUNT:])


def last_exit(network: ExitNetwork, validation: Loader) -> tuple[Calibrated, Policy]:
    """Return the stages and the last exit as a network of one stage, with a temperature, and its only policy."""
    whole = ExitNetwork([nn.Sequential(*network.stages)], [network.exit(len(network.exits) - 1)]).eval()
    calibrated = suffice.calibrate(whole, None, validation, structure=None)
    return calibrated, suffice.allocate(calibrated, validation, budget=1.0)


def _write(folder: Path, calibrated: Calibrated, policy: Policy, validation: Loader, x: Tensor, labels: Tensor) -> None:
    """Export both networks, and write the examples last."""
    folder.mkdir(parents=True, exist_ok=True)
    suffice.export(calibrated, folder / HALF, policy=policy, example=x[:2])
    full, only = last_exit(calibrated.network, validation)
    suffice.export(full, folder / FULL, policy=only, example=x[:2])
    np.savez(folder / EXAMPLES, x=x.numpy(), labels=labels.numpy())
