"""Pools of all stages, and the choice among them by the rule."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from suffice_runtime.serving import rule
from suffice_runtime.serving.options import Options
from suffice_runtime.serving.pools import Part, Pool, count_numbers
from suffice_runtime.serving.requests import Request
from suffice_runtime.serving.times import Times

Signature = tuple[tuple[int, ...], ...]

POOLS = 256
"""Number of pools from which on empty ones are removed, so that ever new lengths of texts need no ever new memory."""


@dataclass(frozen=True)
class Choice:
    """Decision of the rule on a pool.

    Attributes:
        pool: The pool, which is not empty.
        until: Time until which it waits, in seconds; −inf if it is to run now.
        urgency: Urgency u, by which the pool that runs next is chosen.
        size: Number of examples that are to run.
        seconds: Seconds that they are expected to take.
    """

    pool: Pool
    until: float
    urgency: float
    size: int
    seconds: float


class Queues:
    """Examples that wait before each stage, by shape.

    Args:
        options: Options of the scheduler.
        times: Measured times.

    Attributes:
        patient: Whether examples may wait for others.
    """

    def __init__(self, options: Options, times: Times) -> None:
        self.patient = True
        self._options, self._times = options, times
        self._pools: dict[tuple[int, Signature], Pool] = {}

    def __len__(self) -> int:
        """Number of waiting examples."""
        return sum(map(len, self._pools.values()))

    def before(self, stage: int) -> int:
        """Return the number of examples that wait before a stage."""
        return sum(len(pool) for pool in self._pools.values() if pool.stage == stage)

    def add(self, stage: int, part: Part, now: float) -> None:
        """Add examples before a stage."""
        key = stage, part.rows.signature
        if key not in self._pools:
            if len(self._pools) >= POOLS:
                self._pools = {known: pool for known, pool in self._pools.items() if len(pool)}
            self._pools[key] = Pool(stage, count_numbers(part))
        self._pools[key].add(part, now)

    def remove(self, unwanted: Callable[[Request], bool]) -> list[Part]:
        """Remove and return the examples of some requests."""
        return [part for pool in self._pools.values() for part in pool.remove(unwanted)]

    def choose(self, now: float) -> Choice | None:
        """Return the pool that is to run now, or None if all are empty or wait."""
        ready = [choice for choice in self._choices(now) if not now < choice.until]
        return max(ready, key=lambda one: (one.urgency, one.pool.stage, -one.pool.oldest), default=None)

    def wake_at(self, now: float) -> float:
        """Return the time at which the first of the waiting pools is to be looked at again, or +inf."""
        return min((choice.until for choice in self._choices(now) if now < choice.until), default=math.inf)

    def _choices(self, now: float) -> Iterator[Choice]:
        pools = [pool for pool in self._pools.values() if len(pool)]
        queued = max((now - pool.oldest for pool in pools if pool.stage == 0), default=0.0)
        for pool in pools:
            yield self._choice(pool, queued, now)

    def _choice(self, pool: Pool, queued: float, now: float) -> Choice:
        """Apply the rule to a pool."""
        wait, sizes, known = self._options.wait, self._options.sizes, dict[int, float]()

        def seconds(rows: int) -> float:
            if rows not in known:
                known[rows] = self._times.seconds(pool.stage, pool.numbers, self._options.size_of(rows))
            return known[rows]

        best, size = rule.best_size(sizes, seconds), rule.size_to_run(len(pool), sizes, seconds)
        least, mine = seconds(best) / best, seconds(size) / size
        until = -math.inf
        if self.patient and len(pool) < best:
            bound = pool.due(wait, seconds(size)) - now
            if bound > 0:
                time = rule.time_to_wait(len(pool), bound, sizes, seconds, lambda more: pool.rate.time_for(more, now))
                until = now + time if time else until
        unserved = now - max(pool.started, pool.oldest)
        efficiency = min(1.0, least / mine) if mine > 0 else 1.0
        return Choice(pool, until, rule.urgency(efficiency, unserved, wait, queued), size, seconds(size))
