"""Run a policy on a stream of batches: each stage's batch is refilled with survivors of earlier batches.

In one batch the survivors get fewer from stage to stage, and small batches use a machine badly. In a stream they
wait before the next stage until enough have come, so every stage runs full. Answers come in the order of the
batches, and none later than a stated number of batches after its own.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import torch
from torch import Tensor

from suffice.budget import scores as scoring
from suffice.budget import walk
from suffice.budget.policy import Policy
from suffice.budget.run import Answer, advance, check_policy, enter, fitting, in_order
from suffice.budget.walk import Finished, InFlight
from suffice.calibration.calibrated import Calibrated
from suffice.network import State


class StageError(RuntimeError):
    """A stage, its exit or the score failed for one example of a batch; the cause is its `__cause__`.

    Attributes:
        stage: k, counted from 0.
        batch: number of the batch in the stream, counted from 0.
        position: of the example in that batch.
    """

    def __init__(self, stage: int, batch: int, position: int, cause: Exception) -> None:
        super().__init__(f"stage {stage} failed for example {position} of batch {batch}: {cause}")
        self.stage, self.batch, self.position = stage, batch, position
        self.__cause__ = cause


@dataclass(frozen=True)
class Served:
    """One batch of a stream: what was answered, and what failed.

    Attributes:
        answer: of the examples that were answered, in their order; None if there are none.
        positions: (M,), their positions in the batch, int64.
        errors: one for each of the other examples.
    """

    answer: Answer | None
    positions: Tensor
    errors: tuple[StageError, ...] = ()


def run_stream(
    calibrated: Calibrated,
    policy: Policy,
    batches: Iterable[State],
    *,
    size: int = 64,
    delay: int = 8,
    buckets: Sequence[int] = (),
) -> Iterator[Served]:
    """Answer a stream of batches under a policy, in order.

    A stage runs as soon as `size` examples wait before it, on exactly so many; survivors wait for those of later
    batches, but not for ever: a batch is answered before more than `delay` later ones are asked for. At the end
    of the stream all are answered. If the stream ends in an exception of its own, what came before it is answered
    first, and then it is raised.

    An example for which a stage, an exit or the score raises an exception is found by halving the batch; it becomes
    a `StageError` of its batch, and all others are answered.

    Args:
        calibrated: the network.
        policy: made by `allocate` or `control_risk` for this network.
        batches: inputs as `run` takes them, of any sizes.
        size: examples on which a stage runs.
        delay: later batches that a batch may wait for; 0 answers each batch by itself.
        buckets: sizes to which smaller batches, cut short by `delay` or the end, are filled up, for a compiled
            stage; see `run`.

    Returns:
        An iterator of one `Served` for each batch, in order.

    Raises:
        TypeError: for what is no calibrated network or no policy.
        ValueError: if the policy was made for another calibrated network, or size or delay make no sense.
    """
    check_policy(calibrated, policy)
    if size < 1 or delay < 0:
        raise ValueError(f"expected size of at least 1 and delay of at least 0, got {size} and {delay}")
    waiting: list[list[InFlight]] = [[] for _ in calibrated.exits]
    return _served(
        _Stream(calibrated, policy, size, sorted({*buckets, size}) if buckets else (), waiting), batches, delay
    )


@torch.no_grad()
def _served(stream: "_Stream", batches: Iterable[State], delay: int) -> Iterator[Served]:
    source = iter(batches)
    failure = None
    while True:
        try:
            x = next(source)
        except StopIteration:
            break
        except Exception as error:  # raised again, after what came before it
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
    """A batch on its way: what has left it. Its examples are number `start` to `start + size` of the stream."""

    number: int
    start: int
    size: int
    finished: list[Finished] = field(default_factory=list)
    errors: list[StageError] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return sum(len(part.positions) for part in self.finished) + len(self.errors) == self.size

    def holds(self, positions: Tensor) -> Tensor:
        return (positions >= self.start) & (positions < self.start + self.size)

    def served(self, costs: Sequence[int]) -> Served:
        parts = [replace(part, positions=part.positions - self.start) for part in self.finished]
        positions = torch.cat([part.positions for part in parts]) if parts else torch.empty(0, dtype=torch.int64)
        errors = tuple(sorted(self.errors, key=lambda error: error.position))
        return Served(in_order(parts, costs) if parts else None, positions.sort().values, errors)


@dataclass
class _Stream:
    """What is under way: parts that wait before each stage, the earliest first, and batches not yet served."""

    calibrated: Calibrated
    policy: Policy
    size: int
    buckets: Sequence[int]
    waiting: list[list[InFlight]]
    batches: deque[_Batch] = field(default_factory=deque)
    entered: int = 0
    examples: int = 0

    def enter(self, x: State) -> None:
        """A new batch before the first stage; every stage runs as long as enough wait before it."""
        in_flight = enter(self.calibrated, self.policy, x, self.examples)
        self.batches.append(_Batch(self.entered, self.examples, len(in_flight)))
        self.entered, self.examples = self.entered + 1, self.examples + len(in_flight)
        if len(in_flight):
            self.waiting[0].append(in_flight)
        for k in range(len(self.waiting)):
            while self._count(k) >= self.size:
                self._advance(k, self._next(k))

    def finish(self, delay: int) -> None:
        """Answer all batches but the last `delay`; others go along as far as there is room beside them."""
        if delay > len(self.batches):
            return
        young = self.batches[-delay].start if delay else self.examples
        for k in range(len(self.waiting)):
            while any(int(part.positions.min()) < young for part in self.waiting[k]):
                self._advance(k, self._next(k))

    def ready(self) -> Iterator[Served]:
        """Batches that are complete and whose predecessors are."""
        while self.batches and self.batches[0].complete:
            costs = scoring.priced(self.calibrated.costs.cumulative, self.policy.score)
            yield self.batches.popleft().served(costs)

    def _count(self, k: int) -> int:
        return sum(map(len, self.waiting[k]))

    def _next(self, k: int) -> InFlight:
        """The first `size` examples that wait before stage k, or all if they are fewer."""
        in_flight = walk.together(self.waiting[k])
        rows = torch.arange(len(in_flight), device=in_flight.positions.device)
        self.waiting[k] = [in_flight.take(rows[self.size :])] if len(in_flight) > self.size else []
        return in_flight.take(rows[: self.size]) if len(in_flight) > self.size else in_flight

    def _advance(self, k: int, in_flight: InFlight) -> None:
        """Run a stage; where it fails, on each half, down to the example that makes it fail."""
        rows = torch.arange(len(in_flight), device=in_flight.positions.device)
        try:
            filled = in_flight.filled(rows, fitting(len(in_flight), self.buckets))
            leaving, behind, staying = advance(self.calibrated, self.policy, k, filled)
        except Exception as error:  # of any kind: it is somebody else's code
            self.calibrated.check_network()  # another network is no fault of an example
            self._fail(k, in_flight, error)
            return
        for finished, batch in product(leaving, self.batches):
            mine = batch.holds(finished.positions).nonzero()[:, 0]
            if len(mine):
                batch.finished.append(finished.take(mine))
        if len(staying):
            self.waiting[k + 1].append(behind.take(staying))

    def _fail(self, k: int, in_flight: InFlight, error: Exception) -> None:
        if len(in_flight) > 1:
            for half in torch.arange(len(in_flight), device=in_flight.positions.device).tensor_split(2):
                self._advance(k, in_flight.take(half))
            return
        position = int(in_flight.positions)
        batch = next(batch for batch in self.batches if bool(batch.holds(in_flight.positions)))
        batch.errors.append(StageError(k, batch.number, position - batch.start, error))
