"""Monte Carlo dropout as a teacher: how much a prediction varies when units are dropped at random.

Masks are independent for every row and pass: a mask shared by the rows of a batch makes labels that look easy to
predict and are wrong. Gal and Ghahramani 2016.

What lies before the first unit dropped is computed once, the rest for many passes in one batch: passes are mapped
by `torch.vmap`, under which a value stays single until a mask has touched it. A model that cannot be mapped (it
looks at values, or writes into tensors, or has an operation that would be mapped by a loop), and attention, whose masks
are drawn inside, is given the batch again and again instead, whole. Either way the masks are the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from suffice.network import State, batch_size, check_finite, output_tensor
from suffice.storage.parts import Parts
from suffice.twin import inference
from suffice.utils import threads
from suffice.utils.nest import tree_leaves, tree_map_only
from suffice.utils.randomness import draw_from
from suffice.variation.teachers import masks, sites, spreads
from suffice.variation.teachers.masks import Units
from suffice.variation.teachers.sites import Sites
from suffice.variation.teachers.spreads import LikelihoodName, Variation

_AT_ONCE = 64
"""Passes of an example that are worth running at once, if memory allows."""


@dataclass(frozen=True)
class MCDropout:
    """A teacher: passes of a model with dropout on, everything else in evaluation mode.

    Attributes:
        rate: chance of a unit to be dropped, in (0, 1); None takes each dropout's own. Use the rate of training,
            or say that you did not.
        at: names or patterns (`fnmatch`) of modules, or "<input>" for the inputs. A module that drops units itself
            (dropout modules, attention, functional dropout) is made active; any other gets dropout on its output,
            which needs a rate. None: all that the network itself drops in training.
        passes: T, at least 2.
        likelihood: what the model's output is: class logits, a logit, or a prediction of numbers.
        memory: bytes that masks and what is computed from them may take at once, about.
    """

    rate: float | None = None
    at: str | tuple[str, ...] | list[str] | None = None
    passes: int = 100
    likelihood: LikelihoodName = "classification"
    memory: int = 1 << 25

    def __post_init__(self) -> None:
        if self.rate is not None:
            sites.check_rate(self.rate)
        if self.passes < 2:
            raise ValueError(f"expected at least 2 passes, got {self.passes}; a spread needs two")
        spreads.check_likelihood(self.likelihood)

    @classmethod
    def from_parts(cls, parts: Parts, model: nn.Module) -> "MCDropout":
        """From the fields of one, for a model that has what it drops."""
        at, rate = sites.dropped(parts, model)
        likelihood = parts.choice("likelihood", get_args(LikelihoodName))
        return cls(rate, at, parts.count("passes", 2), likelihood, parts.count("memory", 1))

    def __call__(self, model: nn.Module, x: State, *, generator: torch.Generator | None = None) -> Variation:
        """The variation of the model's predictions for a batch.

        Args:
            model: answers with (N, C) logits, (N,) or (N, D); of a list of exits the last counts.
            x: N examples, on the model's device.
            generator: randomness of the masks; None is torch's default.

        Raises:
            ValueError: if no dropout is found, a name matches nothing, outputs are not finite, or dropout
                changed nothing for any example.
            RuntimeError: if a chosen module did not run.
            MemoryError: if one pass of one example needs more than `memory`.
        """
        n = batch_size(x)
        if not n:
            raise ValueError("expected at least one example, got an empty batch")
        with inference(model) as model:
            sample = _rows(x, 0, 2)
            chosen = sites.find(model, sample, self.rate, self.at)
            source = masks.Source(generator, _device(x))
            with _seeded(chosen, generator, x):
                plan = _plan(model, sample, chosen, self)
                with threads.one_thread_if_small(plan.numbers):
                    starts = range(0, n, plan.rows)
                    parts = [self._variation(model, x, start, chosen, plan, source) for start in starts]
        if not any(moved for _, moved in parts):
            raise ValueError(
                f"expected dropout at {chosen.names} to change the predictions, got the same outputs in all "
                f"{self.passes} passes; choose modules that the answer depends on"
            )
        return spreads.concatenate([variation for variation, _ in parts])

    def _variation(
        self, model: nn.Module, x: State, start: int, chosen: Sites, plan: "_Plan", source: masks.Source
    ) -> tuple[Variation, bool]:
        """Variation of the part of the batch from `start`, and whether dropout changed any of its outputs."""
        x = _rows(x, start, start + plan.rows)
        n, sums, moved = batch_size(x), None, False
        if chosen.attention:
            deterministic = spreads.outputs(_Record().run(model, x, chosen), self.likelihood)
            sums = spreads.init(deterministic, self.likelihood)
        for count in _folds(self.passes, plan.fold):
            ones = int(sums is None)
            factors = masks.draw(plan.units_of(n), count, source, ones)
            found = _passes(model, x, chosen, factors, ones + count, plan)
            found = spreads.shaped(found, self.likelihood).view(ones + count, n, -1)
            check_finite(found.movedim(1, 0), "outputs", start)
            if sums is None:
                deterministic, found = found[0], found[1:]
                sums = spreads.init(deterministic, self.likelihood)
            moved = moved or _differs(found, deterministic)
            sums = spreads.update(sums, found)
        assert sums is not None
        return spreads.variation(sums), moved


@dataclass
class _Plan:
    """Rows of the batch at once, passes of them at once, and passes at once where the whole model is repeated.

    units: of each run of a site, with so many rows for each example.  numbers: that an operation is on, at most, for
    `pace`.  mapped: whether `torch.vmap` is used, until it fails.
    """

    rows: int
    fold: int
    repeated: int
    units: list[Units]
    numbers: float
    mapped: bool

    def units_of(self, n: int) -> list[Units]:
        """Of a batch of n examples."""
        return [replace(unit, shape=(n * unit.shape[0], *unit.shape[1:])) for unit in self.units]


class _Record(TorchFunctionMode):
    """A pass under factors of 1, of which the units and the bytes are kept: before the first unit, and after.

    Attributes:
        looped: whether `torch.vmap` would map an operation after the first unit by a loop.
    """

    def __init__(self) -> None:
        super().__init__()
        self.units: list[Units] = []
        self.bytes = [0, 0]
        self.looped = False

    def run(self, model: nn.Module, x: State, chosen: Sites) -> Any:
        """The model's output."""
        with self, _Operations(self):
            return sites.run(model, x, chosen, batch_size(x), self._gate, lambda _: 0.0)

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


class _Operations(TorchDispatchMode):
    """Notes in a record whether an operation after the first unit has no rule of its own to be mapped by."""

    def __init__(self, record: _Record) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.record = record

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self.record.units and not self.record.looped and any(isinstance(leaf, Tensor) for leaf in tree_leaves(args)):
            self.record.looped = not _has_rule(func)
        return func(*args, **(kwargs or {}))


@cache
def _has_rule(func: Any) -> bool:
    """Whether an operation is mapped as a whole, which `torch.vmap` itself says by a warning alone."""
    if func._schema.name == "aten::lift_fresh":  # a constant, which nothing maps
        return True
    name = ".".join(filter(None, (func._schema.name, func._schema.overload_name)))
    keys = "FuncTorchBatched", "FuncTorchBatchedDecomposition", "CompositeImplicitAutograd"
    return any(torch._C._dispatch_has_kernel_for_dispatch_key(name, key) for key in keys)


def _plan(model: nn.Module, sample: State, chosen: Sites, teacher: MCDropout) -> _Plan:
    """How much to do at once within the memory allowed, from a pass of an example or two."""
    record = _Record()
    with threads.record_layer_work(model) as products:
        record.run(model, sample, chosen)
    n = batch_size(sample)
    before, after = (-(-total // n) for total in record.bytes)
    if chosen.attention:
        before, after = 0, before + after
    if before + after > teacher.memory:
        raise MemoryError(
            f"expected one pass of one example to take at most memory={teacher.memory} bytes, got about "
            f"{before + after}; pass a greater memory"
        )
    at_once = min(teacher.passes, _AT_ONCE)
    rows = max(1, teacher.memory // (before + at_once * max(after, 1)))
    fold = max(1, (teacher.memory - rows * before) // (rows * max(after, 1)))
    repeated = max(1, teacher.memory // (rows * (before + after)))
    units = [replace(unit, shape=(unit.shape[0] // n, *unit.shape[1:])) for unit in record.units]
    fold = min(fold, teacher.passes)
    numbers = max(rows * (before + fold * after) / 4, rows * (1 + fold) * max(products, default=0.0) / n)
    return _Plan(rows, fold, repeated, units, numbers, mapped=not (chosen.attention or record.looped))


def _passes(model: nn.Module, x: State, chosen: Sites, factors: list[Tensor], count: int, plan: _Plan) -> Tensor:
    """Answers (count · N, …) of `count` passes over a batch, pass after pass."""
    if plan.mapped:
        try:
            return _mapped(model, x, chosen, factors)
        except (RuntimeError, ValueError):  # the model has run before: what it cannot do is to be mapped
            plan.mapped = False
    found, start = [], 0
    for part in _folds(count, plan.repeated):
        own = [factor[start : start + part].flatten(end_dim=1) for factor in factors]
        found.append(output_tensor(_under(model, _repeated(x, part), chosen, own)))
        start += part
    return torch.cat(found)


def _mapped(model: nn.Module, x: State, chosen: Sites, factors: list[Tensor]) -> Tensor:
    def one(*own: Tensor) -> Tensor:
        return output_tensor(_under(model, x, chosen, list(own)))

    found: Tensor = torch.vmap(one, randomness="different")(*factors)
    return found.flatten(end_dim=1)


def _under(model: nn.Module, x: State, chosen: Sites, factors: list[Tensor]) -> Any:
    """The output of one call of the model under given factors, in the order in which sites ask for them."""
    ready = list(reversed(factors))

    def gate(_rate: float, units: Tensor) -> Tensor:
        if not ready or ready[-1].shape != units.shape:
            raise ValueError(other)
        return ready.pop()

    other = (
        f"expected the same units to be dropped in every pass, got other ones at {chosen.names}; choose modules that "
        "run the same way whatever the values and the size of the batch"
    )
    output = sites.run(model, x, chosen, batch_size(x), gate, lambda rate: rate)
    if ready:
        raise ValueError(other)
    return output


@contextmanager
def _seeded(chosen: Sites, generator: torch.Generator | None, x: State) -> Iterator[None]:
    """Randomness that follows from the generator where attention draws its masks, or a module by itself."""
    if not (chosen.attention or chosen.draws):
        yield
        return
    place = torch.device("cpu") if generator is None else generator.device
    seed = int(torch.randint(2**62, (1,), generator=generator, device=place))
    with draw_from(torch.Generator().manual_seed(seed), x):
        yield


def _differs(found: Tensor, deterministic: Tensor) -> bool:
    """Whether outputs (T, N, C) differ from the ordinary ones (N, C) by more than rounding.

    Rounding depends on the size of the batch: some fifty units in the last place in float32, three in bfloat16.
    """
    tolerance = torch.finfo(deterministic.dtype).eps ** 0.75 * deterministic.abs().max()
    return bool((found - deterministic).abs().max() > tolerance)


def _folds(passes: int, fold: int) -> Iterator[int]:
    """`passes` cut into parts of `fold`."""
    for start in range(0, passes, fold):
        yield min(fold, passes - start)


def _device(x: State) -> torch.device:
    return next(leaf.device for leaf in tree_leaves(x) if isinstance(leaf, Tensor))


def _rows(x: State, start: int, stop: int) -> State:
    return tree_map_only(Tensor, lambda tensor: tensor[start:stop], x)


def _repeated(x: State, times: int) -> State:
    """The batch one time after the other."""
    return tree_map_only(Tensor, lambda tensor: tensor.repeat(times, *[1] * (tensor.ndim - 1)), x)
