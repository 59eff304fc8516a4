"""Cost of a network: multiply-adds per example and milliseconds per batch, for each stage and each exit.

Multiply-adds are counted on one example (`suffice.counting`) and hold for all inputs of its shape. The cost of the
uncertainty is listed separately and is part of every budget.
"""

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from suffice.counting import count_macs
from suffice.inputs import prepare
from suffice.network import ExitNetwork, State, batch_size, call, placement, select
from suffice.storage.parts import LARGEST, NOT_NEGATIVE, Parts
from suffice.storage.serializable import Serializable
from suffice.twin import inference
from suffice.utils.timing import interleaved, synchronize


@dataclass(frozen=True)
class Costs:
    """Multiply-adds per example, stage by stage and exit by exit.

    Attributes:
        stages: K numbers, one for each stage.
        exits: K numbers, one for the features and the classifier of each exit.
        uncertainty: K numbers, one for the posterior, the link and the ensemble at each exit.
        fixed: Whether they hold for inputs of any shape, as costs given to `calibrate` do. Others were counted for an
            input of one shape.
    """

    stages: tuple[int, ...]
    exits: tuple[int, ...]
    uncertainty: tuple[int, ...]
    fixed: bool = field(default=False, repr=False)

    @property
    def network(self) -> tuple[int, ...]:
        """Cumulative cost of a prediction at each exit, without its uncertainty."""
        return tuple(accumulate(map(sum, zip(self.stages, self.exits, strict=True))))

    @property
    def cumulative(self) -> tuple[int, ...]:
        """Cumulative cost of a prediction at each exit, with its uncertainty."""
        return tuple(accumulate(map(sum, zip(self.stages, self.exits, self.uncertainty, strict=True))))

    @classmethod
    def from_parts(cls, parts: Parts, exits: int) -> "Costs":
        """Read the costs of a network with `exits` exits from an artifact, without uncertainty."""
        fixed = "fixed" in parts and parts.choice("fixed", (True, False))
        costs = cls(parts.counts("stages", exits), parts.counts("exits", exits), (0,) * exits, fixed)
        if not 1 <= costs.network[0] <= costs.network[-1] <= LARGEST:
            parts.refuse("exits", f"with the stages from 1 to {LARGEST} in all", costs.network)
        return costs

    def parts(self) -> dict[str, Any]:
        """Return the configuration of an artifact, without uncertainty, the inverse of `from_parts`."""
        return {"stages": self.stages, "exits": self.exits, **({"fixed": True} if self.fixed else {})}

    def with_uncertainty(self, uncertainty: tuple[int, ...]) -> "Costs":
        """Return these costs with another cost of uncertainty for each exit."""
        return replace(self, uncertainty=uncertainty)


def count(network: ExitNetwork, x: State) -> Costs:
    """Count the multiply-adds of a network for one example, the first of batch x, without uncertainty.

    Padding is counted, and attention counts every pair of tokens, masked or not. The count is taken for that of every
    example of the same shape. Where the work depends on more, as in a packed sequence or with experts selected for each
    example, it is that of this example.

    Example:
        >>> import torch
        >>> import suffice
        >>> network = suffice.models.tower([100, 50], hidden=(32, 16), exits_after=(1,))
        >>> suffice.cost.count(network, torch.zeros(1, 2, dtype=torch.long))
        Costs(stages=(1024, 512), exits=(32, 16), uncertainty=(0, 0))
    """
    state = select(prepare(x, network), torch.zeros(1, dtype=torch.long))
    stages, exits = [], []
    with inference(network) as network:
        for k, stage in enumerate(network.stages):
            state, stage_macs = count_macs(stage, state)
            stages.append(stage_macs)
            exits.append(count_macs(network.exit(k), state)[1])
    return Costs(tuple(stages), tuple(exits), (0,) * len(exits))


def macs(model: nn.Module, x: State) -> int:
    """Count the multiply-adds of a model for one example, the first of batch x, fused kernels included.

    A plain model receives a mapping as keyword arguments.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import suffice
        >>> suffice.cost.macs(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4)), torch.zeros(16, 3))
        56
    """
    one = select(prepare(x, model), torch.zeros(1, dtype=torch.long))
    with inference(model) as model:
        return count_macs(partial(call, model), one)[1]


@dataclass(frozen=True)
class Profile(Serializable):
    """Milliseconds of each part of a network for batches of several sizes, measured on one machine.

    Times between the sizes are interpolated linearly, down to 0 for an empty batch; above the largest size they grow
    in proportion.

    Attributes:
        sizes: S batch sizes in increasing order, the first one 1.
        stages: Milliseconds (S, K) of each stage for a whole batch, float64.
        exits: Milliseconds (S, K) of each exit, features and classifier.
        uncertainty: Milliseconds (S, K) of the posterior, its link and the ensemble at each exit.
        compaction: Milliseconds (S, K) to copy a batch of that size after each stage.
        batch_size: Batch size N that a budget in milliseconds refers to.
        machine: Description of the machine.
    """

    sizes: tuple[int, ...]
    stages: Tensor = field(repr=False)
    exits: Tensor = field(repr=False)
    uncertainty: Tensor = field(repr=False)
    compaction: Tensor = field(repr=False)
    batch_size: int
    machine: str

    def milliseconds(self, k: int, size: float) -> float:
        """Return the milliseconds of stage and exit k, uncertainty included, for a batch of `size` examples."""
        return self._at(self.stages + self.exits + self.uncertainty, k, size)

    def per_example(self, shares: Tensor) -> float:
        """Return the mean milliseconds per example of a batch of which shares (K,) finish at each exit."""
        reaching = shares.flip(0).cumsum(0).flip(0) * self.batch_size
        return sum(self.milliseconds(k, size) for k, size in enumerate(reaching.tolist())) / self.batch_size

    def saves_time(self, k: int, size: int, fewer: int) -> bool:
        """Return whether compacting a batch after stage k saves time.

        Args:
            k: Stage after which the batch is compacted.
            size: Number of rows in the batch.
            fewer: Number of rows that are still in flight.
        """
        saved = self.milliseconds(k + 1, size) - self.milliseconds(k + 1, fewer)
        return self._at(self.compaction, k, fewer) < saved

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the configuration and the tensors of an artifact."""
        times = torch.stack([self.stages, self.exits, self.uncertainty, self.compaction])
        return {"sizes": self.sizes, "batch_size": self.batch_size, "machine": self.machine}, {"milliseconds": times}

    @classmethod
    def from_parts(cls, parts: Parts) -> "Profile":
        """Read a profile from the parts of an artifact, the inverse of `parts`."""
        sizes = parts.counts("sizes", least=1)
        if sizes[:1] != (1,) or any(size >= following for size, following in pairwise(sizes)):
            parts.refuse("sizes", "rising from 1", sizes)
        times = parts.tensor("milliseconds", f"4 {len(sizes)} K", NOT_NEGATIVE, dtype=torch.float64)
        stages, exits, uncertainty, compaction = times
        return cls(sizes, stages, exits, uncertainty, compaction, parts.count("batch_size", 1), parts.text("machine"))

    def _at(self, table: Tensor, k: int, size: float) -> float:
        largest, times = self.sizes[-1], table[:, k].tolist()
        if size > largest:
            return float(times[-1] * size / largest)
        return float(np.interp(size, (0, *self.sizes), (0.0, *times)))


class Profiled(Protocol):
    """Network with exits and a prediction with uncertainty at each, such as `suffice.Calibrated`."""

    network: ExitNetwork

    def predict(self, k: int, phi: Tensor, outputs: Tensor, running: Any) -> tuple[Any, Any]:
        """Return the prediction of exit k and the ensemble's sums up to it, from φ, outputs and the sums before it."""


def profile(calibrated: Profiled, x: State, batch_sizes: Sequence[int] = (1, 8, 64, 256), repeats: int = 5) -> Profile:
    """Measure a calibrated network on this machine: medians of interleaved runs after a warm-up.

    The time of a smaller batch is at most that of a larger one, as noise only adds time. Set the number of threads as
    in use. The measurement takes about (repeats + 1) passes for each size.

    Args:
        calibrated: Network to measure.
        x: Typical batch; a budget in milliseconds refers to batches of its size N and of its shape, such as its length
            of text. Other sizes repeat or leave out its examples; 1 and N are always measured.
        batch_sizes: Batch sizes to measure, ideally those that `run` compacts to.
        repeats: Number of timed runs of each part.

    Raises:
        ValueError: If x is empty or a batch size is below 1.
    """
    x = prepare(x, calibrated.network)
    n = batch_size(x)
    sizes = tuple(sorted({1, n, *batch_sizes}))
    if n < 1 or sizes[0] < 1:
        raise ValueError(f"expected a batch of one example or more and sizes of at least 1, got {n} and {sizes}")
    rows = torch.arange(sizes[-1], device=placement(calibrated.network)[0]) % n
    tables = [_measure(calibrated, select(x, rows[:size]), repeats) for size in sizes]
    table = torch.tensor(tables, dtype=torch.float64).flip(0).cummin(dim=0).values.flip(0)
    stages, exits, uncertainty, compaction = table.unbind(dim=1)
    machine = f"{platform.machine()}, {rows.device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    return Profile(sizes, stages, exits, uncertainty, compaction, n, machine)


def _measure(calibrated: Profiled, x: State, repeats: int) -> list[list[float]]:
    """Return the milliseconds of stages, exits, uncertainties and copies for one batch, 4 × K."""
    running, state = None, x
    rows = torch.arange(batch_size(x), device=placement(calibrated.network)[0])
    functions: dict[str, Callable[[], object]] = {}
    with inference(calibrated.network) as network:
        num_exits = len(network.exits)
        for k in range(num_exits):
            before, (state, phi) = state, network.advance(k, state)
            logits = network.exit(k).classifier(phi)
            functions[f"stage {k}"] = partial(network.stages[k], before)
            functions[f"exit {k}"] = partial(network.exit(k), state)
            functions[f"uncertainty {k}"] = partial(calibrated.predict, k, phi, logits, running)
            functions[f"copy {k}"] = partial(select, state, rows)
            running = calibrated.predict(k, phi, logits, running)[1]
        times = interleaved({name: _synchronized(run, rows.device) for name, run in functions.items()}, repeats)
    return [[times[f"{part} {k}"] for k in range(num_exits)] for part in ("stage", "exit", "uncertainty", "copy")]


def _synchronized(function: Callable[[], object], device: torch.device) -> Callable[[], object]:
    def call() -> None:
        function()
        synchronize(device)

    return call
