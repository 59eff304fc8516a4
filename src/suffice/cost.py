"""What a network costs: multiply-adds per example, stage by stage and exit by exit, and time beside a peer.

Counted on one example (`suffice.counting`). The cost of saying how sure the network is stands apart, and counts towards
every budget.
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

from suffice.counting import counted
from suffice.network import ExitNetwork, State, batch_size, call, placement, select
from suffice.storage.parts import LARGEST, NOT_NEGATIVE, Parts
from suffice.storage.stored import Stored
from suffice.twin import inference
from suffice.utils.timing import interleaved, synchronize


@dataclass(frozen=True)
class Costs:
    """Multiply-adds per example of each stage, each exit (features, classifier) and its uncertainty."""

    stages: tuple[int, ...]
    exits: tuple[int, ...]
    uncertainty: tuple[int, ...]

    @property
    def network(self) -> tuple[int, ...]:
        """Cumulative cost of reaching and answering at each exit, uncertainty left out."""
        return tuple(accumulate(map(sum, zip(self.stages, self.exits, strict=True))))

    @property
    def cumulative(self) -> tuple[int, ...]:
        """Cumulative cost of reaching and answering at each exit, all included."""
        return tuple(accumulate(map(sum, zip(self.stages, self.exits, self.uncertainty, strict=True))))

    @classmethod
    def from_parts(cls, parts: Parts, exits: int) -> "Costs":
        """Those that an artifact keeps of a network with so many exits, without uncertainty."""
        found = cls(parts.counts("stages", exits), parts.counts("exits", exits), (0,) * exits)
        if not 1 <= found.network[0] <= found.network[-1] <= LARGEST:
            parts.refuse("exits", f"with the stages from 1 to {LARGEST} in all", found.network)
        return found

    def with_uncertainty(self, uncertainty: tuple[int, ...]) -> "Costs":
        """The same network with another cost of uncertainty per exit."""
        return replace(self, uncertainty=uncertainty)


def count(network: ExitNetwork, x: State) -> Costs:
    """Costs of a network for one example, the first of batch x, without any uncertainty.

    Padding counts like everything else, and attention counts every pair of tokens, masked or not.
    """
    state = select(x, torch.zeros(1, dtype=torch.long))
    stages, exits = [], []
    with inference(network) as network:
        for k, stage in enumerate(network.stages):
            state, spent = counted(stage, state)
            stages.append(spent)
            exits.append(counted(network.exit(k), state)[1])
    return Costs(tuple(stages), tuple(exits), (0,) * len(exits))


def macs(model: nn.Module, x: State) -> int:
    """Multiply-adds of a model's pass for one example, the first of batch x, whatever is fused in it.

    A mapping becomes the keyword arguments of a plain model.
    """
    one = select(x, torch.zeros(1, dtype=torch.long))
    with inference(model) as model:
        return counted(partial(call, model), one)[1]


@dataclass(frozen=True)
class Profile(Stored):
    """Milliseconds of each part of a network for batches of several sizes, on the machine where it was measured.

    Between the sizes times are interpolated, down to 0 for no example; above them they grow in proportion.

    Attributes:
        sizes: S batch sizes, rising, from 1.
        stages: (S, K), milliseconds of each stage for a whole batch, float64.
        exits: (S, K), of each exit, features and classifier.
        uncertainty: (S, K), of the posterior, its link and the ensemble at each exit.
        compaction: (S, K), of copying a batch of that size behind each stage.
        batch_size: N of the batches that a budget in milliseconds is meant for.
        machine: where it was measured.
    """

    sizes: tuple[int, ...]
    stages: Tensor = field(repr=False)
    exits: Tensor = field(repr=False)
    uncertainty: Tensor = field(repr=False)
    compaction: Tensor = field(repr=False)
    batch_size: int
    machine: str

    def milliseconds(self, k: int, size: float) -> float:
        """Stage and exit k, its uncertainty included, for a whole batch of `size` examples."""
        return self._at(self.stages + self.exits + self.uncertainty, k, size)

    def per_example(self, shares: Tensor) -> float:
        """Mean milliseconds an example of a batch of `batch_size` of which shares (K,) stop at each exit."""
        reaching = shares.flip(0).cumsum(0).flip(0) * self.batch_size
        return sum(self.milliseconds(k, size) for k, size in enumerate(reaching.tolist())) / self.batch_size

    def pays(self, k: int, size: int, fewer: int) -> bool:
        """Whether copying the `fewer` survivors of a batch behind stage k is quicker than going on with all."""
        saved = self.milliseconds(k + 1, size) - self.milliseconds(k + 1, fewer)
        return self._at(self.compaction, k, fewer) < saved

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Configuration and tensors of an artifact."""
        times = torch.stack([self.stages, self.exits, self.uncertainty, self.compaction])
        return {"sizes": self.sizes, "batch_size": self.batch_size, "machine": self.machine}, {"milliseconds": times}

    @classmethod
    def from_parts(cls, parts: Parts) -> "Profile":
        """The reverse of `parts`."""
        sizes = parts.counts("sizes", least=1)
        if sizes[:1] != (1,) or any(one >= other for one, other in pairwise(sizes)):
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
    """A network with exits, and what saying how sure it is takes at each: as `suffice.Calibrated`."""

    network: ExitNetwork

    def predict(self, k: int, phi: Tensor, outputs: Tensor, running: Any) -> tuple[Any, Any]:
        """The exit's own prediction and the ensemble's sums up to it, from φ, outputs and the sums so far."""


def profile(calibrated: Profiled, x: State, batch_sizes: Sequence[int] = (1, 8, 64, 256), repeats: int = 5) -> Profile:
    """Measure a calibrated network on this machine: medians of parts taken in turn, after a warm-up.

    A batch is given no more time than a larger one took. Pin the threads as in use. It takes some (repeats + 1)
    passes for each size.

    Args:
        calibrated: the network.
        x: a batch as it will be met, on the network's device; a budget in milliseconds is meant for batches of
            its size N. Other sizes repeat or leave out its examples; 1 and N are always among them.
        batch_sizes: sizes to measure, best those to which `run` fills up, if it does.
        repeats: of each part.
    """
    n = batch_size(x)
    sizes = tuple(sorted({1, n, *batch_sizes}))
    if n < 1 or sizes[0] < 1:
        raise ValueError(f"expected a batch of one example or more and sizes of at least 1, got {n} and {sizes}")
    rows = torch.arange(sizes[-1], device=placement(calibrated.network)[0]) % n
    tables = [_timed(calibrated, select(x, rows[:size]), repeats) for size in sizes]
    table = torch.tensor(tables, dtype=torch.float64).flip(0).cummin(dim=0).values.flip(0)  # noise only adds
    stages, exits, uncertainty, compaction = table.unbind(dim=1)
    machine = f"{platform.machine()}, {rows.device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    return Profile(sizes, stages, exits, uncertainty, compaction, n, machine)


def _timed(calibrated: Profiled, x: State, repeats: int) -> list[list[float]]:
    """Milliseconds of stages, exits, uncertainties and copies for one batch, 4 × K."""
    running, state = None, x
    rows = torch.arange(batch_size(x), device=placement(calibrated.network)[0])
    ways: dict[str, Callable[[], object]] = {}
    with inference(calibrated.network) as network:
        for k in range(len(network.exits)):
            before, (state, phi) = state, network.advance(k, state)
            logits = network.exit(k).classifier(phi)
            ways[f"stage {k}"] = partial(network.stages[k], before)
            ways[f"exit {k}"] = partial(network.exit(k), state)
            ways[f"uncertainty {k}"] = partial(calibrated.predict, k, phi, logits, running)
            ways[f"copy {k}"] = partial(select, state, rows)
            running = calibrated.predict(k, phi, logits, running)[1]
        times = interleaved({name: _waited(way, rows.device) for name, way in ways.items()}, repeats)
    exits = range(len(network.exits))
    return [[times[f"{part} {k}"] for k in exits] for part in ("stage", "exit", "uncertainty", "copy")]


def _waited(way: Callable[[], object], device: torch.device) -> Callable[[], object]:
    def call() -> None:
        way()
        synchronize(device)

    return call
