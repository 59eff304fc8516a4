"""Checkpoints of a training: everything that the next step depends on, as an artifact.

A checkpoint holds the weights, the state of the optimizer, the position in the training, and states of the random
generators: torch's default generator after the last step, and both it and the loader's generator at the start of the
epoch, so that the epoch can be read again up to that step. As every artifact, it contains no pickle and is written
completely or not at all.
"""

import math
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from suffice.network import ExitNetwork
from suffice.storage import artifact, reading
from suffice.storage.parts import NOT_NEGATIVE, Parts, prefixed
from suffice.training import optimizer_state
from suffice.training.config import Checkpointing
from suffice.training.start import Start

_WHAT = "training"


@dataclass(frozen=True)
class Position:
    """Position in a training.

    Attributes:
        epoch: Number of finished epochs.
        step: Number of finished steps in the current epoch.
        total: Sum of the loss over the examples of the current epoch so far.
        count: Number of those examples.
        history: Mean loss of each finished epoch.
        steps: Number of finished steps of the training.
    """

    epoch: int = 0
    step: int = 0
    total: float = 0.0
    count: int = 0
    history: tuple[float, ...] = ()
    steps: int = 0

    @classmethod
    def from_parts(cls, parts: Parts, epochs: int) -> "Position":
        """Read a position in a training of `epochs` epochs from a checkpoint."""
        epoch, step, total = parts.count("epoch", most=epochs), parts.count("step"), parts.number("total")
        count = parts.count("count", least=step)
        if (step == 0) != (count == 0) or (step and epoch == epochs) or (not step and total):
            parts.refuse("step", f"within an epoch of {epochs}, with the examples so far", [epoch, step, total, count])
        steps = parts.count("steps", least=step) if "steps" in parts else step  # earlier versions did not count them
        return cls(epoch, step, total, count, tuple(parts.numbers("history", epoch)), steps)


class Checkpointer:
    """Position of a training that is written to a checkpoint regularly and read from it at the start.

    Args:
        config: Folder, interval and the loader's generator; None to write no checkpoint.
        network: Network in training.
        epochs: Number of epochs of the training.
        writes: Write checkpoints in this process.

    Attributes:
        position: Position in the training.
        start: Measurement of the network before its training; None until it is measured.

    Raises:
        FileNotFoundError: If the path exists and is no artifact.
        ValueError: If the path is no checkpoint of a training of that many epochs.
        FileExistsError: If the folder holds other files, so that it could not be replaced.
    """

    def __init__(self, config: Checkpointing | None, network: ExitNetwork, epochs: int, writes: bool = True) -> None:
        self.position = Position()
        self.start: Start | None = None
        self._path = None if config is None else Path(config.folder)
        self._network, self._epochs = network, epochs
        self._every = math.inf if config is None else config.every
        self._generator = None if config is None else config.generator
        self._writes = writes
        self._written = time.monotonic()
        self._epoch_start: dict[str, Tensor] = {}
        self._after_last_step: Tensor | None = None
        self._parts: Parts | None = None
        if self._path is not None and os.path.lexists(reading.current_folder(self._path)):
            self._parts = artifact.read(self._path, _WHAT)
            self._stored_settings = self._parts.take("settings")
            self.start = Start()
            if "start" in self._parts:  # earlier versions did not measure it
                self.start = Start.from_parts(self._parts.inner("start"), network.num_classes)
            if writes:
                artifact.check(self._path)

    def resume(self, optimizer: torch.optim.Optimizer, settings: dict[str, Any], own_rates: bool) -> None:
        """Set the optimizer, and resume from the checkpoint if there is one.

        Args:
            optimizer: Optimizer of the network.
            settings: Settings that have to be the same to resume; with the number of epochs, `"epochs"`.
            own_rates: Whether the learning rates are set by the user and belong to the checkpoint.

        Raises:
            ValueError: If the checkpoint is of another training or was edited; nothing has been changed then.
        """
        self._optimizer, self._settings, self._own_rates = optimizer, settings, own_rates
        if self._parts is not None:
            self._load(self._parts)

    def begin_epoch(self) -> Position:
        """Return the position, with the generators in their states at the start of its epoch."""
        if self.position.step:
            torch.set_rng_state(self._epoch_start["default"])
            if self._generator is not None:
                self._generator.set_state(self._epoch_start["loader"])
        else:
            self._epoch_start = self._generator_states()
        return self.position

    def skip_step(self, step: int) -> None:
        """Skip a finished step; after the last one, restore the state of torch's default generator."""
        if step == self.position.step and self._after_last_step is not None:
            torch.set_rng_state(self._after_last_step)

    def after_step(self, step: int, total: Tensor, count: int) -> None:
        """Write a checkpoint after a step, if one is due.

        Args:
            step: Number of finished steps in the epoch.
            total: Sum of the loss over the examples of the epoch so far.
            count: Number of those examples.
        """
        if time.monotonic() - self._written > self._every:
            position = replace(self.position, step=step, total=float(total), count=count)
            self.position = replace(position, steps=position.steps + step - self.position.step)
            self._save()

    def end_epoch(self, mean: float, steps: int) -> None:
        """Advance to the next epoch; write a checkpoint if one is due or after the last epoch.

        Args:
            mean: Mean loss of the finished epoch.
            steps: Number of its steps.
        """
        history, steps = (*self.position.history, mean), self.position.steps + steps - self.position.step
        self.position = Position(self.position.epoch + 1, history=history, steps=steps)
        self._epoch_start = {}
        if self.position.epoch == self._epochs or time.monotonic() - self._written > self._every:
            self._save()

    def _save(self) -> None:
        self._written = time.monotonic()
        if self._path is None or not self._writes:
            return
        tensors = prefixed("network.", self._network.state_dict())
        tensors |= prefixed("optimiser.", optimizer_state.tensors(self._optimizer))
        tensors |= prefixed("began.", self._epoch_start or self._generator_states())
        tensors["last"] = torch.get_rng_state()
        configuration: dict[str, Any] = {
            "position": vars(self.position),
            "settings": self._settings,
            "start": vars(self.start or Start()),
        }
        if self._own_rates:
            configuration["rates"] = [float(group["lr"]) for group in self._optimizer.param_groups]
        artifact.write(self._path, _WHAT, configuration, tensors)

    def _generator_states(self) -> dict[str, Tensor]:
        """Return the current states of torch's default generator and of the loader's."""
        loader = {} if self._generator is None else {"loader": self._generator.get_state()}
        return {"default": torch.get_rng_state(), **loader}

    def _load(self, parts: Parts) -> None:
        """Resume from a checkpoint; all of it is read before anything is changed."""
        if self._stored_settings != self._settings:
            raise ValueError(
                f"expected the settings that {self._path} was written with, {self._stored_settings}, got "
                f"{self._settings}; resume with the same settings, or use another folder"
            )
        position = Position.from_parts(parts.inner("position"), self._epochs)
        network = _weights(parts.under("network."), self._network)
        states = optimizer_state.read(parts.under("optimiser."), self._optimizer)
        groups = self._optimizer.param_groups
        rates = parts.numbers("rates", len(groups), NOT_NEGATIVE) if self._own_rates else None
        epoch_start = self._read_generators(parts, finished=position.epoch == self._epochs)
        after_last_step = _generator_state(parts, "last", torch.default_generator)
        parts.finish()
        self._network.load_state_dict(network)
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": states})
        for group, rate in zip(self._optimizer.param_groups, rates or (), strict=rates is not None):
            group["lr"] = rate
        self.position, self._epoch_start, self._after_last_step = position, epoch_start, after_last_step
        torch.set_rng_state(after_last_step)
        if self._generator is not None:
            self._generator.set_state(epoch_start["loader"])

    def _read_generators(self, parts: Parts, finished: bool) -> dict[str, Tensor]:
        """Read the states of the generators at the start of the epoch; a finished training needs no loader state."""
        states = {"default": _generator_state(parts, "began.default", torch.default_generator)}
        if self._generator is not None:
            states["loader"] = _generator_state(parts, "began.loader", self._generator)
        elif "began.loader" in parts:
            parts.tensor("began.loader", "*", dtype=torch.uint8)
            if not finished:
                raise ValueError(
                    "expected the generator that the loader draws from, as when the checkpoint was written, got none; "
                    "pass Checkpointing(…, generator=…)"
                )
        return states


def _weights(parts: Parts, network: nn.Module) -> dict[str, Tensor]:
    """Read finite parameters, and buffers that may hold infinities, such as a mask."""
    parameters = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    return {
        name: parts.tensor_like(name, tensor, () if name in parameters else (math.inf, -math.inf))
        for name, tensor in network.state_dict().items()
    }


def _generator_state(parts: Parts, name: str, generator: torch.Generator) -> Tensor:
    """Read the state of a generator of the same kind."""
    state = parts.tensor_like(name, generator.get_state())
    try:
        torch.Generator(generator.device).set_state(state)
    except RuntimeError as error:
        parts.refuse_tensor(name, "the state of a random generator", error)
    return state
