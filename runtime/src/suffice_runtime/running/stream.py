"""Run a policy on a stream of batches, with full batches at every graph.

Within one batch fewer examples continue from graph to graph, and small batches use a machine badly. In a stream,
examples in flight wait before the next graph until there are enough of one shape. Batches are returned in order,
each at most a given number of batches late. The counterpart of `suffice.run_stream`.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suffice_runtime.answer import Answer
from suffice_runtime.policy import Policy
from suffice_runtime.running import walk
from suffice_runtime.running.network import Network
from suffice_runtime.running.walk import Finished, InFlight

Positions = NDArray[np.int64]


class StageError(RuntimeError):
    """Failure of a graph for one example of a batch, with the original error as `__cause__`.

    Attributes:
        stage: Number of the graph, counted from 0.
        batch: Number of the batch in the stream, counted from 0.
        position: Position of the example in that batch.
    """

    def __init__(self, stage: int, batch: int, position: int, cause: Exception) -> None:
        super().__init__(f"stage {stage} failed for example {position} of batch {batch}: {cause}")
        self.stage, self.batch, self.position = stage, batch, position
        self.__cause__ = cause


@dataclass(frozen=True, repr=False)
class Served:
    """One batch of a stream: the answers of its examples, and the errors of those that failed.

    Attributes:
        answer: Answer of the M examples that did not fail, in their order; None if there are none.
        positions: Positions (M,) of these examples in the batch, int64.
        errors: One error for each of the other examples.
    """

    answer: Answer | None
    positions: Positions
    errors: tuple[StageError, ...] = ()

    def __repr__(self) -> str:
        """Describe the batch in one line."""
        return f"Served({self.answer!r}, {len(self.errors)} errors)"


def serve(network: Network, policy: Policy, batches: Iterable[Any], size: int, delay: int) -> Iterator[Served]:
    """Read the batches and yield each one as soon as it and those before it are complete.

    If the stream itself, or the check of a batch, raises an exception, it is raised again after the batches before it.
    """
    stream = _Stream(network, policy, size, [Pool() for _ in network.graphs])
    source, failure = iter(batches), None
    while True:
        try:
            stream.enter(next(source))
        except StopIteration:
            break
        except Exception as error:  # raised again after the batches before it
            failure = error
            break
        stream.finish(delay)
        yield from stream.ready()
    stream.finish(0)
    yield from stream.ready()
    if failure is not None:
        raise failure


class Pool:
    """Groups of rows that can be joined, each in the order in which its rows were added."""

    def __init__(self) -> None:
        self._groups: dict[tuple[tuple[int, ...], ...], list[InFlight]] = {}

    def add(self, rows: InFlight) -> None:
        """Add rows to the group of those like them."""
        self._groups.setdefault(rows.signature, []).append(rows)

    def take_full(self, size: int) -> InFlight | None:
        """Remove and return the first `size` rows of a group that has as many, or None if there is no such group."""
        for key, parts in self._groups.items():
            if sum(map(len, parts)) >= size:
                return self._take(key, size)
        return None

    def take_due(self, size: int, before: int) -> InFlight | None:
        """Remove and return rows of a group with a position below `before`, or None if there is no such group.

        They are the first `size` rows of the group, or all if there are fewer.
        """
        for key, parts in self._groups.items():
            if any(part.positions.min() < before for part in parts):
                return self._take(key, size)
        return None

    def _take(self, key: tuple[tuple[int, ...], ...], size: int) -> InFlight:
        rows = walk.join(self._groups.pop(key))
        if len(rows) <= size:
            return rows
        self._groups[key] = [rows.take(np.arange(size, len(rows)))]
        return rows.take(np.arange(size))


@dataclass
class _Batch:
    """Batch with examples in flight; its examples are number `start` to `start + size` of the stream."""

    number: int
    start: int
    size: int
    tokens: int | None
    finished: list[Finished] = field(default_factory=list)
    errors: list[StageError] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether all examples have finished or failed."""
        return sum(len(part.positions) for part in self.finished) + len(self.errors) == self.size

    def contains(self, positions: Positions) -> NDArray[np.bool_]:
        """Return which positions (M,) in the stream belong to this batch, (M,) bool."""
        return (positions >= self.start) & (positions < self.start + self.size)

    def to_served(self, network: Network, policy: Policy) -> Served:
        """Return the result of a complete batch."""
        errors = tuple(sorted(self.errors, key=lambda error: error.position))
        if not self.finished:
            return Served(None, np.empty(0, dtype=np.int64), errors)
        parts = [replace(part, positions=part.positions - self.start) for part in self.finished]
        positions = np.sort(np.concatenate([part.positions for part in parts]))
        return Served(network.answer(parts, self.tokens, policy), positions, errors)


@dataclass
class _Stream:
    """Examples that wait before each graph, and the batches that are not yet returned."""

    network: Network
    policy: Policy
    size: int
    pools: list[Pool]
    batches: deque[_Batch] = field(default_factory=deque)
    entered: int = 0
    examples: int = 0

    def enter(self, x: Any) -> None:
        """Add a batch before the first graph, and run every graph as long as enough examples wait before it."""
        rows, tokens = self.network.enter(x, coin=self.policy.needs_coin, start=self.examples)
        self.batches.append(_Batch(self.entered, self.examples, len(rows), tokens))
        self.entered, self.examples = self.entered + 1, self.examples + len(rows)
        if len(rows):
            self.pools[0].add(rows)
        for k, pool in enumerate(self.pools):
            while (full := pool.take_full(self.size)) is not None:
                self._advance(k, full)

    def finish(self, delay: int) -> None:
        """Finish all batches but the last `delay`, filling up their rows with examples of later batches."""
        if delay > len(self.batches):
            return
        first_may_wait = self.batches[-delay].start if delay else self.examples
        for k, pool in enumerate(self.pools):
            while (due := pool.take_due(self.size, first_may_wait)) is not None:
                self._advance(k, due)

    def ready(self) -> Iterator[Served]:
        """Yield and forget the batches that are complete together with all batches before them."""
        while self.batches and self.batches[0].complete:
            yield self.batches.popleft().to_served(self.network, self.policy)

    def _advance(self, k: int, rows: InFlight) -> None:
        """Run a graph and split its rows; if that fails, run each half, down to the example that causes it."""
        try:
            if k == 0:
                self.network.check_finite(rows)
            finished, behind = walk.advance(self.network.graphs[k], self.policy, k, rows)
        except Exception as error:  # ONNX Runtime has a class of its own for each status
            self._fail(k, rows, error)
            return
        if finished is not None:
            self._distribute(finished)
        if behind is not None:
            self.pools[k + 1].add(behind)

    def _distribute(self, finished: Finished) -> None:
        """Add finished examples to the batches that they belong to."""
        for batch in self.batches:
            index = batch.contains(finished.positions).nonzero()[0]
            if len(index):
                batch.finished.append(finished.take(index))

    def _fail(self, k: int, rows: InFlight, error: Exception) -> None:
        """Run both halves of rows that failed together, or record the error of a single example."""
        if len(rows) > 1:
            for half in np.array_split(np.arange(len(rows)), 2):
                self._advance(k, rows.take(half))
            return
        position = int(rows.positions[0])
        batch = next(batch for batch in self.batches if batch.contains(rows.positions)[0])
        batch.errors.append(StageError(k, batch.number, position - batch.start, error))
