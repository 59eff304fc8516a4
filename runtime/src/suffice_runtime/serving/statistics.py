"""Counts and histograms of what an engine did, cheap to update, with snapshots that are consistent."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from suffice_runtime.scheduling.load import Load
from suffice_runtime.scheduling.pools import Batch
from suffice_runtime.scheduling.requests import Outcome

SECONDS = (*(round(scale * 10.0**power, 7) for power in range(-4, 1) for scale in (1, 2, 5)), 10.0, 30.0, 60.0)
"""Edges of the histograms of seconds: 0.1 ms to 1 minute, three to a power of ten."""


@dataclass(frozen=True)
class Histogram:
    """Counts of values in fixed buckets.

    Attributes:
        edges: Upper edges (B,) of the buckets, rising; a value at an edge is in the bucket below it.
        counts: Number of values (B + 1,) in each bucket; those above the last edge are in the last one.
        total: Sum of the values.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        """Number of values."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Mean of the values; NaN if there are none."""
        return self.total / self.count if self.count else math.nan

    def quantile(self, share: float) -> float:
        """Return the upper edge of the bucket that holds a quantile; NaN without values, +inf above the last edge."""
        if not self.count:
            return math.nan
        through = np.cumsum(self.counts)
        bucket = int(np.searchsorted(through, share * through[-1]))
        return self.edges[bucket] if bucket < len(self.edges) else math.inf


@dataclass(frozen=True)
class Statistics:
    """Snapshot of the counts of an engine since its start.

    Attributes:
        seconds: Seconds since the start.
        requests: Number of requests that were answered.
        refused: Number of requests that were refused because the engine was full, or closed.
        invalid: Number of requests whose inputs or parameters were not those of the network.
        cancelled: Number of requests that were cancelled before their answer.
        examples: Number of examples that were answered.
        failed: Number of examples that failed, in requests that were answered.
        late: Number of examples that were answered because of a deadline.
        capped: Number of examples that were answered because of a cap.
        exits: Number of examples that were answered at each exit, (K,).
        macs: Sum of the multiply-adds of the answered examples with known costs.
        priced: Number of these examples.
        request_seconds: Seconds from the acceptance of a request to its last answer.
        stage_seconds: Seconds of a run of each stage, (K,).
        batch_sizes: Number of examples in a run of each stage, (K,).
        audited_runs: Number of runs for audits, which are in no histogram.
        load: What the engine holds now.
    """

    seconds: float
    requests: int
    refused: int
    invalid: int
    cancelled: int
    examples: int
    failed: int
    late: int
    capped: int
    exits: tuple[int, ...]
    macs: int
    priced: int
    request_seconds: Histogram
    stage_seconds: tuple[Histogram, ...]
    batch_sizes: tuple[Histogram, ...]
    audited_runs: int
    load: Load


class Buckets:
    """Histogram that values are added to.

    Args:
        edges: Upper edges of its buckets, rising.
    """

    def __init__(self, edges: Sequence[float]) -> None:
        self._edges, self._counts, self._total = tuple(edges), [0] * (len(edges) + 1), 0.0

    def add(self, value: float) -> None:
        """Add a value."""
        self._counts[bisect_left(self._edges, value)] += 1
        self._total += value

    def snapshot(self) -> Histogram:
        """Return the counts so far."""
        return Histogram(self._edges, tuple(self._counts), self._total)


class Meter:
    """Counts of an engine, which is to update and read them under its lock.

    Args:
        exits: Number K of exits.
        sizes: Sizes of batches, the edges of their histograms.
        start: Time at the start, in seconds.

    Attributes:
        refused: Number of refused requests.
        invalid: Number of requests that were not those of the network.
        cancelled: Number of cancelled requests.
    """

    def __init__(self, exits: int, sizes: Sequence[int], start: float) -> None:
        self.refused = self.invalid = self.cancelled = 0
        self._start = start
        self._requests = self._examples = self._failed = self._late = self._capped = 0
        self._macs = self._priced = self._audited_runs = 0
        self._exits = [0] * exits
        self._request_seconds = Buckets(SECONDS)
        self._stage_seconds = [Buckets(SECONDS) for _ in range(exits)]
        self._batch_sizes = [Buckets(sizes) for _ in range(exits)]

    def add_run(self, batch: Batch, seconds: float) -> None:
        """Add the run of a graph."""
        if batch.audit:
            self._audited_runs += 1
            return
        self._stage_seconds[batch.stage].add(seconds)
        self._batch_sizes[batch.stage].add(len(batch))

    def add_outcome(self, outcome: Outcome) -> None:
        """Add an answered request."""
        self._requests += 1
        self._failed += len(outcome.errors)
        self._request_seconds.add(outcome.seconds)
        answer = outcome.answer
        if answer is None:
            return
        self._examples += len(answer)
        self._late += int(np.count_nonzero(outcome.late))
        self._capped += int(np.count_nonzero(outcome.capped))
        exits = answer.exit.tolist()
        for k in exits:
            self._exits[k] += 1
        if answer.costs is not None:
            self._macs += sum(answer.costs[k] for k in exits)
            self._priced += len(exits)

    def snapshot(self, load: Load, now: float) -> Statistics:
        """Return the counts so far, with what the engine holds now."""
        return Statistics(
            seconds=now - self._start,
            requests=self._requests,
            refused=self.refused,
            invalid=self.invalid,
            cancelled=self.cancelled,
            examples=self._examples,
            failed=self._failed,
            late=self._late,
            capped=self._capped,
            exits=tuple(self._exits),
            macs=self._macs,
            priced=self._priced,
            request_seconds=self._request_seconds.snapshot(),
            stage_seconds=tuple(buckets.snapshot() for buckets in self._stage_seconds),
            batch_sizes=tuple(buckets.snapshot() for buckets in self._batch_sizes),
            audited_runs=self._audited_runs,
            load=load,
        )
