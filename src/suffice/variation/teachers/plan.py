"""Size of the parts in which a batch and its dropout passes run, so that they fit a given memory.

One recorded pass of an example or two measures the bytes that are computed before the first dropped unit, which are
needed once, and after it, which are needed for every pass. It also shows whether `torch.vmap` can map the passes: it
cannot write masks, which differ from pass to pass, into a tensor of all passes, as dropout in place does. That matters
only if the model goes on to read that tensor instead of the result.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from suffice.network import State, batch_size
from suffice.utils import threads
from suffice.utils.nest import tree_leaves
from suffice.variation.teachers import sites
from suffice.variation.teachers.masks import Units
from suffice.variation.teachers.sites import Sites

_MAX_FOLD = 64
"""Number of passes of an example that are worth running at once, if memory allows."""


@dataclass
class Plan:
    """Size of the parts in which a batch and its passes run.

    Attributes:
        rows: Number of examples in one part of the batch.
        fold: Number of passes over them that are mapped at once.
        repeated: Number of passes at once where the whole model runs on a repeated batch.
        units: Units of each run of a site, for one example.
        numbers: Upper bound of the numbers that one operation works on, for `threads.one_thread_if_small`.
        mapped: Whether passes are mapped by `torch.vmap`; set to False once that fails.
    """

    rows: int
    fold: int
    repeated: int
    units: list[Units]
    numbers: float
    mapped: bool

    def units_of(self, n: int) -> list[Units]:
        """Return the units of each run of a site, for a batch of n examples."""
        return [replace(unit, shape=(n * unit.shape[0], *unit.shape[1:])) for unit in self.units]


class Recording(TorchFunctionMode):
    """Pass with factors of 1 that records its units and its memory.

    Attributes:
        units: Units of each run of a site.
        bytes: Bytes computed before the first dropped unit, and after it.
        looped: Whether `torch.vmap` would map an operation after the first dropped unit by a loop.
        reads_input: Whether the model reads the input of a dropout in place afterwards, which then must be written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.units: list[Units] = []
        self.bytes = [0, 0]
        self.looped = self.reads_input = False
        self._dropped: list[Tensor] = []  # inputs of dropout in place

    def run(self, model: nn.Module, x: State, chosen: Sites) -> Any:
        """Run the model and return its output."""
        with self, _OperationObserver(self):
            output = sites.run(model, x, chosen, batch_size(x), self._gate, lambda _: 0.0, self._dropped.append)
        self.observe_read(output)
        return output

    def observe_read(self, nest: Any) -> None:
        """Set `reads_input` if a tensor of a nest shares memory with the input of a dropout in place."""
        if self._dropped:
            memory = {tensor.untyped_storage()._cdata for tensor in self._dropped}
            read = (leaf.untyped_storage()._cdata for leaf in tree_leaves(nest) if isinstance(leaf, Tensor))
            self.reads_input = self.reads_input or not memory.isdisjoint(read)

    def _gate(self, rate: float, units: Tensor) -> Tensor:
        self.units.append(Units(rate, tuple(units.shape), units.dtype, units.device))
        self.bytes[1] += units.nbytes + 2 * units.numel()
        return units.new_ones(())

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not result._is_view():
            self.bytes[bool(self.units)] += result.nbytes
        return result


class _OperationObserver(TorchDispatchMode):
    """Mode that shows a recording the operations after the first dropped unit: their inputs, and whether they loop."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recording = recording

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        recording = self.recording
        recording.observe_read((args, kwargs))
        if recording.units and not recording.looped and any(isinstance(leaf, Tensor) for leaf in tree_leaves(args)):
            recording.looped = not _has_batching_rule(func)
        return func(*args, **(kwargs or {}))


@cache
def _has_batching_rule(func: Any) -> bool:
    """Return whether `torch.vmap` maps an operation as a whole; torch itself only warns where it does not."""
    if func._schema.name == "aten::lift_fresh":  # a constant, which is never mapped
        return True
    name = ".".join(filter(None, (func._schema.name, func._schema.overload_name)))
    keys = "FuncTorchBatched", "FuncTorchBatchedDecomposition", "CompositeImplicitAutograd"
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(name, key) for key in keys)


def make_plan(model: nn.Module, sample: State, chosen: Sites, passes: int, memory: int) -> Plan:
    """Choose the size of the parts from one recorded pass.

    Args:
        model: Twin in evaluation mode.
        sample: Batch of one or two examples.
        chosen: Sites of the model.
        passes: Number T of passes.
        memory: Bytes that the masks and all that is computed from them may take at once.

    Raises:
        MemoryError: If one pass of one example needs more than `memory`.
    """
    recording = Recording()
    with threads.record_layer_work(model) as products:
        recording.run(model, sample, chosen)
    n = batch_size(sample)
    before, after = (-(-total // n) for total in recording.bytes)
    if chosen.attention:  # its passes repeat the whole model
        before, after = 0, before + after
    if before + after > memory:
        raise MemoryError(
            f"expected one pass of one example to take at most memory={memory} bytes, got about "
            f"{before + after}; pass a greater memory"
        )
    rows = max(1, memory // (before + min(passes, _MAX_FOLD) * max(after, 1)))
    fold = max(1, (memory - rows * before) // (rows * max(after, 1)))
    repeated = max(1, memory // (rows * (before + after)))
    units = [replace(unit, shape=(unit.shape[0] // n, *unit.shape[1:])) for unit in recording.units]
    fold = min(fold, passes)
    mapped = not (chosen.attention or recording.looped or recording.reads_input)
    numbers = max(rows * (before + fold * after) / 4, rows * (1 + fold) * max(products, default=0.0) / n)
    return Plan(rows, fold, repeated, units, numbers, mapped=mapped)


def folds(passes: int, fold: int) -> Iterator[int]:
    """Split a number of passes into parts of at most `fold`."""
    for start in range(0, passes, fold):
        yield min(fold, passes - start)
