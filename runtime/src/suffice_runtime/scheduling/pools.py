"""Examples that wait before a stage, in the fair order of `fairness`, and batches of them that run together."""

import heapq
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from suffice_runtime.prediction import AnyPrediction
from suffice_runtime.running.walk import Array, Finished, InFlight
from suffice_runtime.scheduling.requests import Request, StageRun
from suffice_runtime.scheduling.rules.rates import Rate


@dataclass(frozen=True, eq=False)
class Part:
    """Examples of one request before one stage.

    Attributes:
        request: Their request.
        rows: Their M rows; positions are those in the request, and rise.
        since: Time at which they came to this stage, in seconds.
        waited: Seconds that they waited before the stages before it.
        last: Prediction of the exit behind them for M examples, if the request may need it, else None. For examples
            that are audited, the prediction of the exit of their answer.
        answered: That exit, for examples that are audited, else None.
    """

    request: Request
    rows: InFlight
    since: float
    waited: float = 0.0
    last: AnyPrediction | None = None
    answered: int | None = None

    def __len__(self) -> int:
        """Number of examples M."""
        return len(self.rows.positions)

    def take(self, start: int, stop: int) -> "Part":
        """Select the examples `start` to `stop`."""
        if start == 0 and stop == len(self):
            return self
        index = np.arange(start, stop)
        return replace(self, rows=self.rows.take(index), last=None if self.last is None else self.last.take(index))

    def tag(self, i: int) -> float:
        """Return the tag of example i in the fair order."""
        return self.request.first_tag + float(self.rows.positions[i])

    def at_last_exit(self) -> Finished | None:
        """Return the examples as answered by the exit behind them; None before the first exit."""
        if self.last is None:
            return None
        return Finished(self.rows.positions, len(self.rows.scores) - 1, self.last, self.rows.scores, self.rows.coin)


class Pool:
    """Examples of one shape that wait before one stage.

    Args:
        stage: Number of the stage.
        numbers: Count of numbers in a row.

    Attributes:
        started: Time at which the last batch was taken, or −inf.
        rate: Rate at which examples come.
    """

    def __init__(self, stage: int, numbers: int) -> None:
        self.stage, self.numbers = stage, numbers
        self.started, self.rate = -math.inf, Rate()
        self._parts: dict[int, Part] = {}  # in the order in which they came
        self._keys: dict[int, set[int]] = {}  # of the parts of each request, by its number
        self._heap: list[tuple[float, int, int]] = []  # tag of the next example, number of the request, key in _parts
        self._rows = self._added = 0

    def __len__(self) -> int:
        """Number of examples."""
        return self._rows

    @property
    def oldest(self) -> float:
        """Time at which the first of the examples came; the pool must not be empty."""
        return next(iter(self._parts.values())).since

    def due(self, wait: float, seconds: float) -> float:
        """Return the time at which an example has waited for its bound, or cannot wait because of its deadline.

        Args:
            wait: Seconds that an example may wait in all stages together.
            seconds: Seconds of a run.
        """
        return min(
            min(part.since + max(0.0, wait - part.waited), part.request.deadline - seconds)
            for part in self._parts.values()
        )

    def time_for(self, now: float) -> Callable[[int], float]:
        """Return the function from a number of further examples to the expected seconds until they have come."""
        return lambda more: self.rate.time_for(more, now)

    def add(self, part: Part, now: float) -> None:
        """Add examples."""
        self._insert(part)
        self.rate.add(len(part), now)

    def take(self, size: int, now: float) -> list[Part]:
        """Remove and return the first `size` examples, or all if there are fewer."""
        self.started, counts = now, dict[int, int]()
        while size and self._heap:
            _, number, key = heapq.heappop(self._heap)
            if key not in self._parts:  # removed
                continue
            part, start = self._parts[key], counts.get(key, 0)
            stop = start + self._run(part, start, size)
            counts[key], size = stop, size - stop + start
            if stop < len(part):
                heapq.heappush(self._heap, (part.tag(stop), number, key))
        return [self._cut(key, count) for key, count in counts.items()]

    def remove(self, requests: Iterable[Request]) -> list[Part]:
        """Remove and return the examples of some requests."""
        numbers = [request.ticket.number for request in requests]
        return [self._delete(key) for number in numbers for key in sorted(self._keys.get(number, ()))]

    def _insert(self, part: Part) -> None:
        number = part.request.ticket.number
        self._parts[self._added] = part
        self._keys.setdefault(number, set()).add(self._added)
        heapq.heappush(self._heap, (part.tag(0), number, self._added))
        self._added, self._rows = self._added + 1, self._rows + len(part)

    def _delete(self, key: int) -> Part:
        """Remove a part, whose place in the heap is left behind."""
        part = self._parts.pop(key)
        number = part.request.ticket.number
        self._keys[number].remove(key)
        if not self._keys[number]:
            del self._keys[number]
        self._rows -= len(part)
        if not self._parts:
            self._heap = []
        return part

    def _run(self, part: Part, start: int, most: int) -> int:
        """Return how many examples of a part, from one on, come before the next part."""
        most = min(most, len(part) - start)
        if most == 1 or not self._heap:
            return most
        before = self._heap[0][0] - part.request.first_tag
        return max(1, int(np.searchsorted(part.rows.positions[start : start + most], before, side="right")))

    def _cut(self, key: int, count: int) -> Part:
        """Remove and return the first examples of a part, whose rest is in the heap already."""
        part = self._parts[key]
        if count == len(part):
            return self._delete(key)
        self._parts[key] = part.take(count, len(part))
        self._rows -= count
        return part.take(0, count)


@dataclass(frozen=True, eq=False, repr=False)
class Batch:
    """Examples of several requests that run together.

    Attributes:
        number: Number of the batch.
        stage: Number of the graph to run, counted from 0.
        parts: The examples, those of one request together.
        size: Number of rows that the graph is to be run on, N or more.
        started: Time at which it was taken, in seconds.
        audit: Whether its examples are answered already.
    """

    number: int
    stage: int
    parts: tuple[Part, ...]
    size: int
    started: float
    audit: bool = False

    def __len__(self) -> int:
        """Number of examples N."""
        return self._rows

    def __repr__(self) -> str:
        """Describe the batch in one line."""
        audit = ", audit" if self.audit else ""
        return f"Batch(stage {self.stage}, {len(self)} examples of {len(self.parts)} requests{audit})"

    @property
    def numbers(self) -> int:
        """Count of numbers in a row."""
        return count_numbers(self.parts[0])

    @cached_property
    def _rows(self) -> int:
        return sum(map(len, self.parts))

    @cached_property
    def arrays(self) -> list[Array]:
        """Arrays (N, …) that the graph takes, in its order."""
        columns = zip(*(part.rows.carried for part in self.parts), strict=True)
        return [column[0] if len(column) == 1 else np.concatenate(column) for column in columns]

    def padded(self) -> list[Array]:
        """Return the arrays with the last row repeated up to `size` rows."""
        more = self.size - len(self)
        return [
            np.concatenate([array, np.repeat(array[-1:], more, axis=0)]) if more else array for array in self.arrays
        ]

    def note(self, now: float) -> None:
        """Add the run, which ends now, to the requests that are traced; audits are not."""
        for part in self.parts:
            if part.request.runs is not None and not self.audit:
                run = StageRun(self.stage, len(part), len(self), part.since, self.started, now)
                part.request.runs.append(run)

    def halves(self) -> list[list[Part]]:
        """Return the first and the second half of the examples, N of 2 or more."""
        middle, start = len(self) // 2, 0
        first, second = list[Part](), list[Part]()
        for part in self.parts:
            cut = min(max(middle - start, 0), len(part))
            if cut:
                first.append(part.take(0, cut))
            if cut < len(part):
                second.append(part.take(cut, len(part)))
            start += len(part)
        return [first, second]


def count_numbers(part: Part) -> int:
    """Return the count of numbers in a row, which tells shapes of different lengths apart."""
    return sum(map(math.prod, part.rows.signature))
