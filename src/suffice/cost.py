"""What a network costs: multiply-adds per example, stage by stage and exit by exit, and time beside a peer.

Counted by PyTorch's own counter on one example (convolutions and matrix products; two operations are one
multiply-add). The counter sees no inside of fused kernels: attention, recurrent layers and the transformer layers'
fast path would count nothing. So while it counts they are taken apart into the products that they are made of.
The cost of saying how sure the network is stands apart, and counts towards every budget.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from suffice.network import ExitNetwork, State, inference, select


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

    def with_uncertainty(self, uncertainty: tuple[int, ...]) -> "Costs":
        """The same network with another cost of uncertainty per exit."""
        return replace(self, uncertainty=uncertainty)


def count(network: ExitNetwork, x: State) -> Costs:
    """Costs of a network for one example, the first of batch x, without any uncertainty.

    Padding counts like everything else, and attention counts every pair of tokens, masked or not.
    """
    state = select(x, torch.zeros(1, dtype=torch.long))
    stages, exits = [], []
    with inference(network):
        for k, stage in enumerate(network.stages):
            state, macs = _counted(stage, state)
            stages.append(macs)
            exits.append(_counted(network.exit(k), state)[1])
    return Costs(tuple(stages), tuple(exits), (0,) * len(exits))


def interleaved(ways: Mapping[str, Callable[[], object]], repeats: int = 9) -> dict[str, float]:
    """Median milliseconds of each way of doing something, the ways taken in turn after one round of warm-up.

    Taking turns keeps ratios fair when the machine's speed drifts. Pin the threads yourself.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(repeats + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if round_:
                times[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.median(values) for name, values in times.items()}


def _counted(function: Callable[[State], State], x: State) -> tuple[State, int]:
    with _unfused(), FlopCounterMode(display=False) as counter:
        result = function(x)
    return result, counter.get_total_flops() // 2


@contextmanager
def _unfused() -> Iterator[None]:
    """Attention and recurrent layers as the matrix products that they are made of, whatever the device."""
    fused: tuple[Any, ...] = (torch.backends.mkldnn, torch.backends.cudnn)
    before = torch.backends.mha.get_fastpath_enabled(), [backend.enabled for backend in fused]
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        for backend in fused:
            backend.enabled = False
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before[0])
        for backend, enabled in zip(fused, before[1], strict=True):
            backend.enabled = enabled
