"""Where an interrupted training goes on: everything that the next step depends on, as an artifact.

The weights, the optimiser's state, how far the training is, and the states of the random generators: torch's own
after the last step, and both, torch's own and the loader's, as they were when the epoch began, so that the epoch can
be read again up to that step. Written as every artifact is: no pickle, whole or absent.
"""

import math
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from suffice.storage import artifact, reading
from suffice.storage.parts import Parts, prefixed

_WHAT = "training"


@dataclass(frozen=True)
class Position:
    """How far a training is.

    Attributes:
        epoch: epochs finished.
        step: steps finished in the epoch that is running.
        total: sum over its examples so far of the loss.
        count: those examples.
        history: mean loss of each finished epoch.
    """

    epoch: int = 0
    step: int = 0
    total: float = 0.0
    count: int = 0
    history: tuple[float, ...] = ()

    @classmethod
    def from_parts(cls, parts: Parts, epochs: int) -> "Position":
        """From the fields of one, of a training of so many epochs."""
        epoch, step, total = parts.count("epoch", most=epochs), parts.count("step"), parts.number("total")
        count = parts.count("count", least=step)
        if (step == 0) != (count == 0) or (step and epoch == epochs) or (not step and total):
            parts.refuse("step", f"within an epoch of {epochs}, with the examples so far", [epoch, step, total, count])
        return cls(epoch, step, total, count, tuple(parts.numbers("history", epoch)))


class Keeper:
    """Knows where a training is, writes it down from time to time, and finds it again.

    Args:
        path: folder of the checkpoint, gone on from if it is there; None to write nothing.
        network: the network in training.
        optimiser: its optimiser.
        settings: what the same training must be asked for again with.
        every: seconds between checkpoints; one is written after the last epoch in any case.
        generator: that the loader draws from, if it has one of its own.
        writes: whether this process writes.

    Raises:
        FileNotFoundError, ValueError: if the path is there and is no checkpoint of such a training.
        FileExistsError: if something else is in the folder too, so that it could not be replaced.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        settings: dict[str, Any],
        every: float,
        generator: torch.Generator | None,
        writes: bool = True,
    ) -> None:
        self.position = Position()
        self._path = None if path is None else Path(path)
        self._network, self._optimizer, self._settings = network, optimizer, settings
        self._every, self._generator, self._writes = every, generator, writes
        self._written = time.monotonic()
        self._began: dict[str, Tensor] = {}
        self._last: Tensor | None = None
        if self._path is not None and os.path.lexists(reading.there(self._path)):
            self._load(self._path)
            if writes:
                artifact.check(self._path)

    def begin_epoch(self) -> Position:
        """The position; the generators are as they were when its epoch began."""
        if self.position.step:
            torch.set_rng_state(self._began["default"])
            if self._generator is not None:
                self._generator.set_state(self._began["loader"])
        else:
            self._began = {"default": torch.get_rng_state()}
            if self._generator is not None:
                self._began["loader"] = self._generator.get_state()
        return self.position

    def passed_over(self, step: int) -> None:
        """Note a batch that was learned from before: after the last of them torch's generator is as it was then."""
        if step == self.position.step and self._last is not None:
            torch.set_rng_state(self._last)

    def after_step(self, step: int, total: Tensor, count: int) -> None:
        """Note a step, with the epoch's summed loss and examples so far; write it down if it is time."""
        if time.monotonic() - self._written > self._every:
            self.position = replace(self.position, step=step, total=float(total), count=count)
            self._save()

    def end_epoch(self, mean: float) -> None:
        """Note the end of an epoch and its mean loss; write it down if it is time or the last."""
        history = (*self.position.history, mean)
        self.position = Position(self.position.epoch + 1, history=history)
        self._began = {}
        if self.position.epoch == self._settings["epochs"] or time.monotonic() - self._written > self._every:
            self._save()

    def _save(self) -> None:
        self._written = time.monotonic()
        if self._path is None or not self._writes:
            return
        tensors = prefixed("network.", self._network.state_dict())
        for index, state in self._optimizer.state_dict()["state"].items():
            if state.get(_REMEMBERED) is not None:
                tensors[f"optimiser.{index}.{_REMEMBERED}"] = state[_REMEMBERED]
        tensors |= prefixed("began.", self._generators_at_begin())
        tensors["last"] = torch.get_rng_state()
        configuration = {"position": vars(self.position), "settings": self._settings}
        artifact.write(self._path, _WHAT, configuration, tensors)

    def _generators_at_begin(self) -> dict[str, Tensor]:
        if self._began:
            return self._began
        loader = {} if self._generator is None else {"loader": self._generator.get_state()}
        return {"default": torch.get_rng_state(), **loader}

    def _load(self, path: Path) -> None:
        """Go on from a checkpoint; all of it is read before anything is changed."""
        parts = artifact.read(path, _WHAT)
        written = parts.take("settings")
        if written != self._settings:
            raise ValueError(
                f"expected the settings that {path} was written with, {written}, got {self._settings}; ask for the "
                "same training, or for another folder"
            )
        position = Position.from_parts(parts.inner("position"), self._settings["epochs"])
        network = _weights(parts.under("network."), self._network)
        states = _optimizer_states(parts.under("optimiser."), self._optimizer)
        began = self._read_generators(parts, over=position.epoch == self._settings["epochs"])
        last = _generator_state(parts, "last", torch.default_generator)
        parts.finish()
        self._network.load_state_dict(network)
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": states})
        self.position, self._began, self._last = position, began, last
        torch.set_rng_state(last)
        if self._generator is not None:
            self._generator.set_state(began["loader"])

    def _read_generators(self, parts: Parts, over: bool) -> dict[str, Tensor]:
        """States of the generators when the epoch began; a training that is over does without the loader's own."""
        began = {"default": _generator_state(parts, "began.default", torch.default_generator)}
        if self._generator is not None:
            began["loader"] = _generator_state(parts, "began.loader", self._generator)
        elif "began.loader" in parts:
            parts.tensor("began.loader", "*", dtype=torch.uint8)
            if not over:
                raise ValueError("expected the generator that the loader drew from before, got none; pass generator=…")
        return began


def likeness(function: Callable[..., Any] | None) -> str:
    """What a function is known by from one process to the next: its `repr`, without addresses in memory.

    The name of a function, and the parameters of an object that shows them; functions of one name read alike, and so
    do closures over different values.
    """
    return re.sub(" at 0x[0-9a-fA-F]+", "", repr(function))


def _weights(parts: Parts, network: nn.Module) -> dict[str, Tensor]:
    """Parameters, which are finite, and buffers, which may hold infinities, such as a mask."""
    parameters = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    return {
        name: parts.tensor_like(name, tensor, () if name in parameters else (math.inf, -math.inf))
        for name, tensor in network.state_dict().items()
    }


def _optimizer_states(parts: Parts, optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Tensor]]:
    """What an optimiser remembers of each parameter, laid out as the parameter: steps then are the same to the byte."""
    states: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, parameter in enumerate(parameters):
        if (name := f"{index}.{_REMEMBERED}") in parts:
            value = parts.tensor_like(name, parameter)
            states[index] = {_REMEMBERED: torch.empty_like(parameter, requires_grad=False).copy_(value)}
    return states


def _generator_state(parts: Parts, name: str, generator: torch.Generator) -> Tensor:
    """The state of a generator of the same kind."""
    state = parts.tensor_like(name, generator.get_state())
    try:
        torch.Generator(generator.device).set_state(state)
    except RuntimeError as error:
        parts.refuse_tensor(name, "the state of a random generator", error)
    return state


_REMEMBERED = "momentum_buffer"
