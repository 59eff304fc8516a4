"""Where an interrupted training goes on: everything that the next step depends on, as an artifact.

The weights, the optimiser's state, how far the training is, and the states of the random generators: torch's own
after the last step, and both, torch's own and the loader's, as they were when the epoch began, so that the epoch can
be read again up to that step. Written as every artifact is: no pickle, whole or absent.
"""

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from suffice import artifact, reading

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
        optimiser: torch.optim.Optimizer,
        settings: dict[str, Any],
        every: float,
        generator: torch.Generator | None,
        writes: bool = True,
    ) -> None:
        self.position = Position()
        self._path = None if path is None else Path(path)
        self._network, self._optimiser, self._settings = network, optimiser, settings
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
        tensors = {f"network.{name}": tensor for name, tensor in self._network.state_dict().items()}
        for index, state in self._optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": value for name, value in state.items() if value is not None}
        tensors |= {f"began.{name}": state for name, state in self._generators_at_begin().items()}
        tensors["last"] = torch.get_rng_state()
        configuration = {"position": vars(self.position), "settings": self._settings}
        artifact.write(self._path, _WHAT, configuration, tensors)

    def _generators_at_begin(self) -> dict[str, Tensor]:
        if self._began:
            return self._began
        loader = {} if self._generator is None else {"loader": self._generator.get_state()}
        return {"default": torch.get_rng_state(), **loader}

    def _load(self, path: Path) -> None:
        configuration, tensors = artifact.read(path, _WHAT)
        if configuration["settings"] != self._settings:
            raise ValueError(
                f"expected the settings that {path} was written with, {configuration['settings']}, got "
                f"{self._settings}; ask for the same training, or for another folder"
            )
        self._network.load_state_dict(_under("network.", tensors))
        states: dict[int, dict[str, Tensor]] = {}
        for key, value in _under("optimiser.", tensors).items():
            index, name = key.split(".", 1)
            states.setdefault(int(index), {})[name] = value
        self._optimiser.load_state_dict({**self._optimiser.state_dict(), "state": states})
        where = configuration["position"]
        self.position = Position(**{**where, "history": tuple(where["history"])})
        self._began, self._last = _under("began.", tensors), tensors["last"]
        torch.set_rng_state(self._last)
        if self._generator is not None:
            self._generator.set_state(self._began["loader"])


def likeness(function: Callable[..., Any] | None) -> str:
    """What a function is known by from one process to the next: its `repr`, without addresses in memory.

    The name of a function, and the parameters of an object that shows them; functions of one name read alike, and so
    do closures over different values.
    """
    return re.sub(" at 0x[0-9a-fA-F]+", "", repr(function))


def _under(prefix: str, entries: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in entries.items() if name.startswith(prefix)}
