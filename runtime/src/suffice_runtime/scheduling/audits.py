"""Examples that are run on to the last exit after they were answered, when nothing else is to do.

Each of them is reported once: with the prediction of the last exit, or as dropped. What is dropped is not a random part
of them, as examples that stop at the last exit need no audit. Whoever estimates a mean from audits has to begin none
for which there may be no room.
"""

import numpy as np

from suffice_runtime.running.walk import Finished
from suffice_runtime.scheduling.exits import Reached
from suffice_runtime.scheduling.options import Options
from suffice_runtime.scheduling.pools import Batch, Part, Pool, count_numbers
from suffice_runtime.scheduling.queues import Signature
from suffice_runtime.scheduling.requests import Audited, Request
from suffice_runtime.scheduling.rules.times import Times


class Audits:
    """Answered examples before each stage; those for which there is no room are dropped.

    A batch of them takes at most the bound on waiting, as far as times are measured, so that a request that comes
    meanwhile is not held up for longer; but it has at least one example.

    Args:
        options: Options of the scheduler.
        times: Measured times.

    Attributes:
        dropped: Number of examples that were dropped.
    """

    def __init__(self, options: Options, times: Times) -> None:
        self.dropped = 0
        self._room, self._sizes, self._wait, self._times = options.max_audit_rows, options.sizes, options.wait, times
        self._pools: dict[tuple[int, Signature], Pool] = {}
        self._again: list[tuple[int, list[Part]]] = []  # stage and examples of batches that failed
        self._done: list[Audited] = []

    def __len__(self) -> int:
        """Number of waiting examples."""
        again = sum(len(part) for _, parts in self._again for part in parts)
        return again + sum(map(len, self._pools.values()))

    def begin(self, reached: Reached, stopped: Finished, now: float) -> None:
        """Add the examples of a part that its policy stopped at an exit, unless it is the last one."""
        if not reached.last:
            rows = reached.carried(np.searchsorted(reached.part.rows.positions, stopped.positions))
            part = Part(reached.part.request, rows, now, last=stopped.prediction, answered=reached.exit)
            self._add(reached.exit + 1, part, now)

    def advance(self, reached: Reached, now: float) -> None:
        """Add the outputs of a graph for examples that are audited."""
        part = reached.part
        if not part.request.audit:  # cancelled meanwhile
            return
        if not reached.last:
            onward = Part(part.request, reached.carried(), now, last=part.last, answered=part.answered)
            self._add(reached.exit + 1, onward, now)
            return
        last, answered = reached.finished(), _answered(part)
        sound = np.isfinite(last.prediction.soundness)
        if sound.any():
            kept = sound.nonzero()[0]
            self._done.append(Audited(part.request.ticket, answered.take(kept), last.take(kept)))
        if not sound.all():
            self._drop(part.request, answered.take((~sound).nonzero()[0]))

    def failed(self, batch: Batch) -> None:
        """Let both halves of a batch that failed run again, or drop its single example."""
        if len(batch) > 1:
            self._again += [(batch.stage, half) for half in batch.halves()]
            return
        for part in batch.parts:
            self._drop(part.request, _answered(part))

    def cancel(self, request: Request) -> None:
        """Remove the examples of a request, which are not reported."""
        if request.audit:
            request.audit = False
            self._again = [(stage, kept) for stage, parts in self._again if (kept := _without(parts, request))]
            for pool in self._pools.values():
                pool.remove([request])
            self._pools = {key: pool for key, pool in self._pools.items() if len(pool)}

    def take(self, now: float) -> tuple[int, list[Part]] | None:
        """Remove and return examples that are to run together, with their stage, the latest one; None if none wait."""
        if self._again:
            return self._again.pop()
        if not self._pools:
            return None
        key = max(self._pools)
        pool = self._pools[key]
        parts = pool.take(self._size(pool), now)
        if not len(pool):
            del self._pools[key]
        return pool.stage, parts

    def collect(self) -> list[Audited]:
        """Remove and return the examples that reached the last exit, or were dropped."""
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        """Drop the examples that wait, and all that come."""
        parts = [part for _, again in self._again for part in again]
        parts += [part for pool in self._pools.values() for part in pool.take(len(pool), 0.0)]
        self._pools, self._again, self._room = {}, [], 0
        for part in parts:
            self._drop(part.request, _answered(part))

    def _add(self, stage: int, part: Part, now: float) -> None:
        if len(self) + len(part) > self._room:
            self._drop(part.request, _answered(part))
            return
        pool = self._pools.setdefault((stage, part.rows.signature), Pool(stage, count_numbers(part)))
        pool.add(part, now)

    def _drop(self, request: Request, answered: Finished) -> None:
        if not request.audit:
            return
        self.dropped += len(answered.positions)
        self._done.append(Audited(request.ticket, answered, None))

    def _size(self, pool: Pool) -> int:
        seconds = self._times.seconds
        fits = [size for size in self._sizes if seconds(pool.stage, pool.numbers, size) <= self._wait]
        return max(fits, default=self._sizes[0])


def _without(parts: list[Part], request: Request) -> list[Part]:
    return [part for part in parts if part.request is not request]


def _answered(part: Part) -> Finished:
    """Return examples that are audited at the exit of their answer."""
    assert part.answered is not None
    assert part.last is not None
    rows = part.rows
    return Finished(rows.positions, part.answered, part.last, rows.scores[: part.answered + 1], rows.coin)
