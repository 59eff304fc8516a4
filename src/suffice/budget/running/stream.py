"""Run a policy on a stream of batches, with full batches at every stage.

Within one batch fewer examples continue from stage to stage, and small batches use a machine badly. In a stream,
examples in flight wait before the next stage until there are enough of one shape, so every stage runs on full batches.
Batches are returned in order, each at most a given number of batches late.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import torch
from torch import Tensor

from suffice.budget.policy import Policy
from suffice.budget.prices import price
from suffice.budget.running.pool import Pool
from suffice.budget.running.run import Answer, advance, bucket_for, check_buckets, check_policy, enter, in_order
from suffice.budget.walk import Finished, InFlight
from suffice.calibration.calibrated import Calibrated
from suffice.inputs import prepare
from suffice.network import State, select
from suffice.utils import arguments


class StageError(RuntimeError):
    """Failure of a stage, its exit or the score for one example of a batch, with the original error as `__cause__`.

    Attributes:
        stage: Number of the stage, counted from 0.
        batch: Number of the batch in the stream, counted from 0.
        position: Position of the example in that batch.
    """

    def __init__(self, stage: int, batch: int, position: int, cause: Exception) -> None:
        super().__init__(f"stage {stage} failed for example {position} of batch {batch}: {cause}")
        self.stage, self.batch, self.position = stage, batch, position
        self.__cause__ = cause


@dataclass(frozen=True)
class Served:
    """One batch of a stream: the answers of its examples, and the errors of those that failed.

    Attributes:
        answer: Answer of the M examples that did not fail, in their order; None if there are none.
        positions: Positions (M,) of these examples in the batch, int64.
        errors: One error for each of the other examples.
    """

    answer: Answer | None
    positions: Tensor
    errors: tuple[StageError, ...] = ()

    def __repr__(self) -> str:
        """Describe the batch in one line."""
        return f"Served({self.answer!r}, {len(self.errors)} errors)"


def run_stream(
    calibrated: Calibrated,
    policy: Policy,
    batches: Iterable[State],
    *,
    size: int = 64,
    delay: int = 8,
    buckets: Sequence[int] = (),
) -> Iterator[Served]:
    """Run a stream of batches under a policy, and return their answers in order.

    A stage runs on `size` examples as soon as so many wait before it. Examples wait for those of later batches, but a
    batch is finished before more than `delay` later batches are read. At the end of the stream all batches are
    finished. If the stream itself raises an exception, it is raised again after the batches before it are returned.

    Batches may differ in the length of their texts or the size of their images. Only examples of the same shape can run
    together, so those of other shapes wait apart until a stage makes them alike. With many shapes they rarely fill
    `size`; sort the stream by length, or pad to a few lengths.

    If a stage, an exit or the score raises an exception, the example that causes it is found by halving the batch; it
    becomes a `StageError` of its batch, and all other examples are answered.

    Args:
        calibrated: Calibrated network.
        policy: Policy made by `allocate` or `control_risk` for this network.
        batches: Inputs as for `run`, in batches of any size; each batch of one shape, and different ones of any.
        size: Number of examples on which a stage runs.
        delay: Number of later batches that a batch may wait for; 0 runs each batch by itself.
        buckets: Sizes to which batches smaller than `size`, at the end or because of `delay`, are padded for a compiled
            stage; see `run`.

    Returns:
        An iterator of one `Served` for each batch, in order.

    Raises:
        TypeError: If the arguments are not a calibrated network, a policy, batches and whole numbers.
        ValueError: If the policy was made for another calibrated network, or size or delay are out of range.
        RuntimeError: While iterating, if the multiply-adds of inputs of a new shape cannot be counted.

    Example:
        >>> import torch
        >>> import suffice
        >>> network, x = suffice.models.convnet(num_classes=3, widths=(4, 8)), torch.rand(200, 1, 8, 8)
        >>> loader = [(x, torch.arange(200) % 3)]
        >>> calibrated = suffice.calibrate(network, None, loader, structure=None, temperature=False)
        >>> policy = suffice.allocate(calibrated, [x], budget=0.8)
        >>> [len(served.positions) for served in suffice.run_stream(calibrated, policy, x.split(60), size=64)]
        [60, 60, 60, 20]
    """
    check_policy(calibrated, policy)
    size, delay = arguments.whole("size", size), arguments.whole("delay", delay, least=0)
    sizes = sorted({*check_buckets(buckets), size}) if buckets else ()
    if isinstance(batches, (Tensor, Mapping)) or not isinstance(batches, Iterable):
        raise TypeError(
            f"expected an iterable of batches, such as a DataLoader, got {type(batches).__name__}; pass one batch as "
            "[x], or call suffice.run"
        )
    stream = _Stream(calibrated, policy, size, sizes, [Pool() for _ in calibrated.exits])
    return _serve(stream, batches, delay)


@torch.no_grad()
def _serve(stream: "_Stream", batches: Iterable[State], delay: int) -> Iterator[Served]:
    """Read the batches and yield each one as soon as it and those before it are complete."""
    source = iter(batches)
    failure = None
    while True:
        try:
            x = next(source)
        except StopIteration:
            break
        except Exception as error:  # raised again after the batches before it
            failure = error
            break
        stream.enter(x)
        stream.finish(delay)
        yield from stream.ready()
    stream.finish(0)
    yield from stream.ready()
    if failure is not None:
        raise failure


@dataclass
class _Batch:
    """Batch x with examples in flight; its examples are number `start` to `start + size` of the stream."""

    x: State
    number: int
    start: int
    size: int
    finished: list[Finished] = field(default_factory=list)
    errors: list[StageError] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether all examples have finished or failed."""
        return sum(len(part.positions) for part in self.finished) + len(self.errors) == self.size

    def contains(self, positions: Tensor) -> Tensor:
        """Return which positions (M,) in the stream belong to this batch, (M,) bool."""
        return (positions >= self.start) & (positions < self.start + self.size)

    def to_served(self, calibrated: Calibrated, policy: Policy) -> Served:
        """Return the result of a complete batch."""
        parts = [replace(part, positions=part.positions - self.start) for part in self.finished]
        errors = tuple(sorted(self.errors, key=lambda error: error.position))
        if not parts:
            return Served(None, torch.empty(0, dtype=torch.int64), errors)
        positions = torch.cat([part.positions for part in parts]).sort().values
        costs = price(calibrated, select(self.x, positions[:1]), policy.score)  # of an example that has not failed
        return Served(in_order(parts, costs, policy.sets), positions, errors)


@dataclass
class _Stream:
    """Examples that wait before each stage, and the batches that are not yet returned."""

    calibrated: Calibrated
    policy: Policy
    size: int
    buckets: Sequence[int]
    pools: list[Pool]
    batches: deque[_Batch] = field(default_factory=deque)
    entered: int = 0
    examples: int = 0

    def enter(self, x: State) -> None:
        """Add a batch before the first stage, and run every stage as long as enough examples wait before it."""
        x = prepare(x, self.calibrated.network)
        in_flight = enter(self.calibrated, self.policy, x, self.examples)
        self.batches.append(_Batch(x, self.entered, self.examples, len(in_flight)))
        self.entered, self.examples = self.entered + 1, self.examples + len(in_flight)
        if len(in_flight):
            self.pools[0].add(in_flight)
        for k, pool in enumerate(self.pools):
            while (rows := pool.take_full(self.size)) is not None:
                self._advance(k, rows)

    def finish(self, delay: int) -> None:
        """Finish all batches but the last `delay`, filling up their rows with examples of later batches."""
        if delay > len(self.batches):
            return
        first_may_wait = self.batches[-delay].start if delay else self.examples
        for k, pool in enumerate(self.pools):
            while (rows := pool.take_due(self.size, first_may_wait)) is not None:
                self._advance(k, rows)

    def ready(self) -> Iterator[Served]:
        """Yield and forget the batches that are complete together with all batches before them."""
        while self.batches and self.batches[0].complete:
            yield self.batches.popleft().to_served(self.calibrated, self.policy)

    def _advance(self, k: int, in_flight: InFlight) -> None:
        """Run a stage and its exit; if they fail, run each half, down to the example that causes it."""
        rows = torch.arange(len(in_flight), device=in_flight.positions.device)
        try:
            padded = in_flight.padded_to(rows, bucket_for(len(in_flight), self.buckets))
            stopped, behind, continuing = advance(self.calibrated, self.policy, k, padded)
        except Exception as error:  # user code in stages and scores may raise anything
            self.calibrated.check_network()  # raises if the network was changed, which is not an example's error
            self._fail(k, in_flight, error)
            return
        for finished, batch in product(stopped, self.batches):
            index = batch.contains(finished.positions).nonzero()[:, 0]
            if len(index):
                batch.finished.append(finished.take(index))
        if len(continuing):
            self.pools[k + 1].add(behind.take(continuing))

    def _fail(self, k: int, in_flight: InFlight, error: Exception) -> None:
        """Run both halves of rows that failed together, or record the error of a single example."""
        if len(in_flight) > 1:
            for half in torch.arange(len(in_flight), device=in_flight.positions.device).tensor_split(2):
                self._advance(k, in_flight.take(half))
            return
        position = int(in_flight.positions)
        batch = next(batch for batch in self.batches if bool(batch.contains(in_flight.positions)))
        batch.errors.append(StageError(k, batch.number, position - batch.start, error))
