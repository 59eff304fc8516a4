"""Settings of a training: the optimizer with its schedule, checkpoints, and the execution of a step.

The defaults are the recipe of Huang et al. 2018: momentum 0.9, weight decay 1e-4, and a learning rate of 0.1 that is
divided by ten at half and at three quarters of the epochs.
"""

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Schedule = Callable[[float], float]
"""Function from the finished share of a training, in [0, 1), to a factor on the learning rate."""


def steps(done: float) -> float:
    """Return 1 in the first half of the training, a tenth until three quarters of it, and a hundredth after that."""
    return 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01


def cosine(done: float) -> float:
    """Return half a cosine that falls from 1 to 0. Loshchilov and Hutter 2017."""
    return 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class SGDConfig:
    """Stochastic gradient descent with momentum, weight decay and a schedule of the learning rate.

    Attributes:
        learning_rate: Learning rate before the schedule.
        momentum: Factor on the accumulated gradient.
        weight_decay: Coefficient of the L2 penalty on all trained parameters.
        nesterov: Use Nesterov momentum.
        schedule: Factor on the learning rate, set before each epoch.
    """

    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    nesterov: bool = False
    schedule: Schedule = steps

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Build the optimizer for some parameters."""
        return torch.optim.SGD(
            parameters,
            lr=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
        )


@dataclass(frozen=True)
class Checkpointing:
    """Checkpoints of a training, from which it resumes after an interruption.

    Attributes:
        folder: Folder of the checkpoint. Training resumes from it if it holds a checkpoint with the same settings; loss
            and schedule are compared by their `repr`.
        every: Seconds between checkpoints; one is also written after the last epoch.
        generator: Generator that the loader draws from, if it has its own; needed to read an interrupted epoch again in
            the same order.
    """

    folder: str | os.PathLike[str]
    every: float = 60.0
    generator: torch.Generator | None = None


@dataclass(frozen=True)
class Execution:
    """Execution of a training step: memory format, compilation, devices and processes.

    Attributes:
        channels_last: Store images and convolutions in channels-last memory format.
        compiled: Run the network through `torch.compile`. A batch of another size than the first, such as the last one
            of an epoch, runs uncompiled, as it would trigger another compilation.
        fabric: A `lightning_fabric.Fabric` that sets the device, the precision and the number of processes (extra
            "train"). It requires a DataLoader, which is distributed over the processes: the batch of a step is that of
            all processes together. None trains on the network's own device and in its own type.
    """

    channels_last: bool = False
    compiled: bool = False
    fabric: "Fabric | None" = None
