"""Settings of a training: the optimizer with its schedule, checkpoints, and the execution of a step.

The defaults of `SGDConfig` are the recipe of Huang et al. 2018 for networks that are trained from scratch: momentum
0.9, weight decay 1e-4, and a learning rate of 0.1 that is divided by ten at half and at three quarters of the epochs.
"""

import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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

    Raises a ValueError for a value out of range, and a TypeError for a schedule that is no function.

    Attributes:
        learning_rate: Learning rate before the schedule.
        momentum: Factor on the accumulated gradient.
        weight_decay: Coefficient of the L2 penalty on all trained parameters.
        nesterov: Use Nesterov momentum.
        schedule: Factor on the learning rate, set before each epoch.
        warmup: Number of first steps over which the learning rate rises linearly; 0 for none.
    """

    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    nesterov: bool = False
    schedule: Schedule = steps
    warmup: int = 0

    def __post_init__(self) -> None:
        _check_rates(self, self.learning_rate)
        _require(0 <= self.momentum < 1, "a momentum in [0, 1)", self.momentum)

    def build(self, parameters: Iterable[nn.Parameter], backbone: Iterable[nn.Parameter] = ()) -> torch.optim.Optimizer:
        """Build the optimizer for some parameters, with one learning rate for all of them."""
        del backbone
        return torch.optim.SGD(
            parameters,
            lr=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
        )

    def settings(self) -> dict[str, Any]:
        """Return the settings that a checkpoint stores; without a warm-up, they are those of earlier versions."""
        settings = _plain(self)
        if not self.warmup:
            del settings["warmup"]
        return settings


@dataclass(frozen=True)
class AdamWConfig:
    """Adam with decoupled weight decay, a warm-up and a schedule of the learning rate. Loshchilov and Hutter 2019.

    Raises a ValueError for a value out of range, and a TypeError for a schedule that is no function.

    Attributes:
        learning_rate: Learning rate before the schedule.
        backbone_rate: Learning rate of a trained backbone, its stages and last exit; None for `learning_rate`.
        betas: Decay rates of the means of the gradient and of its square.
        weight_decay: Coefficient of the weight decay of all trained parameters, relative to the learning rate.
        schedule: Factor on the learning rates, set before each epoch.
        warmup: Number of first steps over which the learning rates rise linearly; 0 for none. The first steps of Adam
            are as long as all later ones, in directions that rest on a few examples.
    """

    learning_rate: float = 1e-3
    backbone_rate: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    schedule: Schedule = cosine
    warmup: int = 20

    def __post_init__(self) -> None:
        _check_rates(self, self.learning_rate, *(() if self.backbone_rate is None else (self.backbone_rate,)))

    def build(self, parameters: Iterable[nn.Parameter], backbone: Iterable[nn.Parameter] = ()) -> torch.optim.Optimizer:
        """Build the optimizer for some parameters, with another learning rate for those of them in the backbone."""
        slow = set() if self.backbone_rate is None else set(backbone)
        parts: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
        for parameter in parameters:
            parts[parameter in slow].append(parameter)
        rates = self.learning_rate, self.backbone_rate
        groups = [{"params": part, "lr": rate} for part, rate in zip(parts, rates, strict=True) if part]
        return torch.optim.AdamW(groups, betas=self.betas, weight_decay=self.weight_decay, fused=True)

    def settings(self) -> dict[str, Any]:
        """Return the settings that a checkpoint stores."""
        return {"optimizer": "AdamW", **_plain(self), "betas": list(self.betas)}


def _check_rates(config: SGDConfig | AdamWConfig, *rates: float) -> None:
    """Raise an error unless learning rates, weight decay, warm-up and schedule of an optimizer are valid."""
    for rate in rates:
        _require(isinstance(rate, (int, float)) and 0 <= rate < math.inf, "a learning rate of at least 0", rate)
    _require(0 <= config.weight_decay < math.inf, "a weight_decay of at least 0", config.weight_decay)
    _require(isinstance(config.warmup, int) and config.warmup >= 0, "a whole number of warmup steps", config.warmup)
    if not callable(config.schedule):
        raise TypeError(
            f"expected a schedule as a function from the finished share to a factor, got {config.schedule!r}; pass "
            "training.config.cosine or steps, or a function of your own"
        )


def _require(holds: bool, expected: str, value: object) -> None:
    if not holds:
        raise ValueError(f"expected {expected}, got {value!r}")


def check_settings(epochs: object, execution: object, checkpoint: object) -> None:
    """Raise a TypeError for settings of another kind, or a ValueError for a number of epochs below 0."""
    if not isinstance(epochs, int) or isinstance(epochs, bool):
        raise TypeError(f"expected epochs as a whole number, got {epochs!r}")
    _require(epochs >= 0, "epochs of at least 0", epochs)
    for name, value, kind in (("execution", execution, Execution), ("checkpoint", checkpoint, Checkpointing)):
        if value is not None and not isinstance(value, kind):
            example = "Execution(compiled=True)" if kind is Execution else 'Checkpointing("folder")'
            raise TypeError(f"expected {name}={example} of suffice.training, or None, got {value!r}")


def _plain(config: SGDConfig | AdamWConfig) -> dict[str, Any]:
    """Return the attributes of a configuration, its schedule by a stable name."""
    return {**vars(config), "schedule": stable_repr(config.schedule)}


def stable_repr(function: Callable[..., Any] | None) -> str:
    """Return the `repr` of a function without memory addresses, so that it is the same in another process.

    It holds the name of a function, or the parameters of an object that prints them. Functions of the same name, and
    closures over different values, have the same representation.
    """
    return re.sub(" at 0x[0-9a-fA-F]+", "", repr(function))


@dataclass(frozen=True)
class Checkpointing:
    """Checkpoints of a training, from which it resumes after an interruption.

    Attributes:
        folder: Folder of the checkpoint. Training resumes from it if it holds a checkpoint with the same settings; loss
            and schedule are compared by their `repr`. Of an optimizer of your own, class, settings and state are
            compared and restored, its learning rates included, but not the state of a scheduler of your own.
        every: Seconds between checkpoints; one is also written after the last epoch.
        generator: Generator that the loader draws from, if it has its own; needed to read an interrupted epoch again in
            the same order.
    """

    folder: str | os.PathLike[str]
    every: float = 60.0
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.folder, (str, os.PathLike)):
            raise TypeError(f"expected a path as the folder of the checkpoint, got {self.folder!r}")
        _require(str(self.folder) != "", "a path as the folder of the checkpoint", self.folder)
        _require(not math.isnan(self.every), "a number of seconds between checkpoints", self.every)


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

    def __post_init__(self) -> None:
        if self.fabric is not None and not hasattr(self.fabric, "setup_dataloaders"):
            raise TypeError(f"expected a lightning_fabric.Fabric, got {self.fabric!r}; pass Fabric(accelerator=…)")
