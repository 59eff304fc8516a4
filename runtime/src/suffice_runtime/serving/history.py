"""Bounded history of an engine in memory: a point every 10 seconds for a day, and every 10 minutes for a month.

A point holds counts since the start, so that any two points give the rates between them, and points may be left out.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from suffice_runtime.serving.statistics import Histogram, Statistics
from suffice_runtime.serving.watch import Watch

SECONDS = 10.0
"""Seconds between two points."""

COARSE_SECONDS = 600.0
"""Seconds between two points that are kept for longer."""

_POINTS = 8640
_COARSE_POINTS = 4464


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """State of an engine at some time.

    Attributes:
        time: Time in seconds since 1970.
        seconds: Seconds since the start of the engine, which never fall.
        requests: Number of requests that were answered since the start.
        examples: Number of examples that were answered.
        refused: Number of requests that were refused.
        durations: Counts of the histogram of the seconds of requests.
        edges: Upper edges of its buckets.
        policy_version: Number of the policy in force.
        step: Its place in the certified sequence.
        audited: Number of audited examples under this policy.
        loss: Mean of their losses; None without any.
        bound: Upper bound on the loss; None without any.
        e_value: Evidence against the promise; None without one.
        e_limit: Evidence at which there is an alarm.
        exits_e_value: Evidence that the shares of exits differ; None if they are not watched.
        exits_e_limit: Evidence at which there is an alarm.
        cost: Mean cost as a fraction of that of the last exit; None if it is not known.
    """

    time: float
    seconds: float
    requests: int
    examples: int
    refused: int
    durations: NDArray[np.int64]
    edges: tuple[float, ...]
    policy_version: int
    step: int
    audited: int
    loss: float | None
    bound: float | None
    e_value: float | None
    e_limit: float | None
    exits_e_value: float | None
    exits_e_limit: float | None
    cost: float | None

    @classmethod
    def of(cls, counts: Statistics, watch: Watch) -> "Point":
        """Return the present state of an engine, from its statistics and what is watched."""
        return cls(
            time=time.time(),
            seconds=counts.seconds,
            requests=counts.requests,
            examples=counts.examples,
            refused=counts.refused,
            durations=np.array(counts.request_seconds.counts, dtype=np.int64),
            edges=counts.request_seconds.edges,
            policy_version=watch.policy_version,
            step=watch.step,
            audited=watch.audited,
            loss=watch.loss,
            bound=watch.bound,
            e_value=watch.e_value,
            e_limit=watch.e_limit,
            exits_e_value=watch.exits_e_value,
            exits_e_limit=watch.exits_e_limit,
            cost=watch.cost,
        )


@dataclass(frozen=True)
class Rates:
    """What an engine did between two points.

    Attributes:
        seconds: Seconds between them.
        requests: Number of requests that were answered.
        requests_per_second: The same per second.
        examples_per_second: Number of examples per second.
        refused: Number of requests that were refused.
        median_seconds: Upper edge of the bucket that holds the median of the seconds of requests; NaN without requests.
        p99_seconds: The same for the 99th percentile.
    """

    seconds: float
    requests: int
    requests_per_second: float
    examples_per_second: float
    refused: int
    median_seconds: float
    p99_seconds: float

    @classmethod
    def between(cls, first: Point, last: Point) -> "Rates":
        """Return the rates between two points of an engine."""
        seconds, requests = last.seconds - first.seconds, last.requests - first.requests
        per_second = 1 / seconds if seconds > 0 else 0.0
        durations = Histogram(last.edges, tuple((last.durations - first.durations).tolist()), 0.0)
        return cls(
            seconds=seconds,
            requests=requests,
            requests_per_second=requests * per_second,
            examples_per_second=(last.examples - first.examples) * per_second,
            refused=last.refused - first.refused,
            median_seconds=durations.quantile(0.5),
            p99_seconds=durations.quantile(0.99),
        )


class History:
    """Points of one engine, which are to be added and read in one thread.

    Args:
        points: Number of the latest points that are kept.
        coarse_points: Number of the points, one per `COARSE_SECONDS`, that are kept for longer.
    """

    def __init__(self, points: int = _POINTS, coarse_points: int = _COARSE_POINTS) -> None:
        self._fine, self._coarse = deque[Point](maxlen=points), deque[Point](maxlen=coarse_points)

    def __len__(self) -> int:
        """Number of points that are kept."""
        return len(self._fine) + sum(1 for _ in self._older())

    def add(self, point: Point) -> None:
        """Add a point, which is later than all others."""
        self._fine.append(point)
        if not self._coarse or point.seconds - self._coarse[-1].seconds >= COARSE_SECONDS:
            self._coarse.append(point)

    def points(self, since: float = 0.0, most: int | None = None) -> list[Point]:
        """Return points, the oldest first: one at or before a time, if there is one, and those after it.

        Args:
            since: Time in seconds since 1970.
            most: Number of points to return at most, at least 2, spread evenly, the first and the last among them.
        """
        every = [*self._older(), *self._fine]
        begin = next((i for i in reversed(range(len(every))) if every[i].time <= since), 0)
        return _thinned(every[begin:], most)

    def before(self, seconds: float) -> Point | None:
        """Return the latest point at or before some seconds since the start of the engine, or else the first one."""
        latest = next((point for point in reversed(self._fine) if point.seconds <= seconds), None)
        return latest or (self._fine[0] if self._fine else None)

    def _older(self) -> "islice[Point]":
        """Return the points that are kept for longer and are before the others."""
        first = self._fine[0].seconds if self._fine else 0.0
        return islice(self._coarse, sum(point.seconds < first for point in self._coarse))


def _thinned(points: Sequence[Point], most: int | None) -> list[Point]:
    """Return at most some of the points, spread evenly."""
    if most is None or len(points) <= most:
        return list(points)
    places = np.linspace(0, len(points) - 1, most).round().astype(int)
    return [points[i] for i in places.tolist()]
