"""Pools of all stages, and the choice among them by the rule."""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from suffice_runtime.scheduling.options import Options
from suffice_runtime.scheduling.pools import Part, Pool, count_numbers
from suffice_runtime.scheduling.requests import Request
from suffice_runtime.scheduling.rules import batching
from suffice_runtime.scheduling.rules.times import Times

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

    def add(self, stage: int, part: Part, now: float, signature: Signature | None = None) -> None:
        """Add examples before a stage, whose signature is computed if it is not given."""
        key = stage, part.rows.signature if signature is None else signature
        pool = self._pools.get(key)
        if pool is None:
            if len(self._pools) >= POOLS:
                self._pools = {known: pool for known, pool in self._pools.items() if len(pool)}
            pool = self._pools[key] = Pool(stage, count_numbers(part))
        pool.add(part, now)

    def remove(self, requests: Collection[Request]) -> list[Part]:
        """Remove and return the examples of some requests."""
        return [part for pool in self._pools.values() for part in pool.remove(requests)]

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
        sizes = self._options.sizes

        def seconds(rows: int) -> float:
            return self._times.seconds(pool.stage, pool.numbers, self._options.size_of(rows))

        best, size = batching.best_size(sizes, seconds), batching.size_to_run(len(pool), sizes, seconds)
        mine = seconds(size) / size
        efficiency = min(1.0, seconds(best) / best / mine) if mine > 0 else 1.0
        unserved = now - max(pool.started, pool.oldest)
        until = self._until(pool, best, seconds, now) if self.patient and len(pool) < best else -math.inf
        urgency = batching.urgency(efficiency, unserved, self._options.wait, queued)
        return Choice(pool, until, urgency, size, seconds(size))

    def _until(self, pool: Pool, best: int, seconds: batching.Seconds, now: float) -> float:
        """Return the time until which a pool of fewer examples than the best size waits; −inf if it is to run now."""
        time, bound = 0.0, self._options.wait
        for _ in range(2):  # the bound of the examples is searched only if there is any reason to wait
            time = batching.time_to_wait(len(pool), bound, best, self._options.sizes, seconds, pool.time_for(now))
            if not time:
                return -math.inf
            bound = pool.due(self._options.wait, seconds(len(pool))) - now
        return now + time
