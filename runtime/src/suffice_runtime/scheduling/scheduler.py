"""Scheduler of a server: which examples of which requests run next, before which stage, and when.

The scheduler is a state machine. It reads no clock and starts no thread: every call takes the present time, and an
executor runs the graphs. Examples of many requests that wait before the same stage run together; those that go on wait
before the next stage, together with others. `rules.batching` states how many run, which stage is next, and when one
waits.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from suffice_runtime.bundle.sessions import Result
from suffice_runtime.policy import Policy
from suffice_runtime.running.network import Network
from suffice_runtime.scheduling.admission import Admission, Terms
from suffice_runtime.scheduling.audits import Audits
from suffice_runtime.scheduling.book import Book
from suffice_runtime.scheduling.exits import Outputs, Reached, check_late
from suffice_runtime.scheduling.load import Load
from suffice_runtime.scheduling.options import Options
from suffice_runtime.scheduling.pools import Batch, Part
from suffice_runtime.scheduling.queues import Queues
from suffice_runtime.scheduling.requests import Audited, DeadlineError, Outcome, Ticket
from suffice_runtime.scheduling.rules.times import Times


class Scheduler:
    """Requests of a server on their way through the stages of a network.

    Calls come one at a time, with times that do not fall. An executor repeats: `collect` what is answered; while it
    has a free worker, run the graph of `next`, and return its result by `done` or `failed`; when `next` is None, sleep
    until `wake_at`, or until a request comes or a graph is done. Every accepted request that is not cancelled has
    exactly one outcome.

    Args:
        network: Network of a bundle with a policy.
        options: Sizes and limits.

    Attributes:
        times: Measured times, which `done` adds to. Times of a profile may be recorded beforehand.

    Raises:
        ValueError: If the bundle has no policy, or the cap is no exit of it.

    Example:
        >>> from suffice_runtime.scheduling.scheduler import Scheduler
        >>> scheduler = Scheduler(network)  # doctest: +SKIP
        >>> ticket = scheduler.submit(x, now=0.0, deadline_ms=50)  # doctest: +SKIP
        >>> while (batch := scheduler.next(now=0.0)) is not None:  # doctest: +SKIP
        ...     scheduler.done(batch, network.graphs[batch.stage](batch.arrays), now=0.0)
        >>> (outcome,) = scheduler.collect(now=0.0)  # doctest: +SKIP
    """

    def __init__(self, network: Network, options: Options | None = None) -> None:
        self._network, self._options = network, options or Options()
        stages = len(network.graphs)
        self.times = Times(stages, self._options.sizes)
        self._book = Book(network)
        self._admission = Admission(network, self._options, self._book)
        self._queues, self._audits = Queues(self._options, self.times), Audits(self._options, self.times)
        self._running = dict[int, Batch]()
        self._again = list[tuple[int, list[Part]]]()  # stage and examples of batches that failed
        self._last, self._batches, self._now = stages - 1, 0, -math.inf

    @property
    def policy(self) -> Policy:
        """Policy of requests that come without one. Those accepted before keep the policy that they came under."""
        return self._admission.policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._admission.policy = policy

    @property
    def drained(self) -> bool:
        """Whether the scheduler is closed and every accepted request is answered."""
        return self._admission.closed and not len(self._book)

    @property
    def next_deadline(self) -> float:
        """Earliest deadline of a request that is not answered, or +inf."""
        return self._book.next_deadline

    def submit(
        self,
        x: Any,
        now: float,
        *,
        policy: Policy | None = None,
        deadline_ms: float | None = None,
        cap_exit: int | None = None,
        client: str | None = None,
        traced: bool = False,
    ) -> Ticket:
        """Accept a request.

        Args:
            x: Inputs as for `Runner.run`, of any number of examples. They must not change until they are answered.
            now: Present time in seconds.
            policy: Policy of this request, such as one of another budget, in place of `policy`.
            deadline_ms: Milliseconds from now after which every example is answered by the last exit that it passed, or
                fails if it passed none.
            cap_exit: Exit, counted from 0, at which every example stops at the latest.
            client: Name of a client, whose requests share the server with those of others.
            traced: Whether its outcome is to have the runs that its examples take part in.

        Raises:
            RefusedError: If there is no room, or the scheduler is closed.
            TypeError: If an input is no array, or of another type than the graphs take.
            ValueError: If names, shapes, the policy, the deadline or the cap are not those of the network. Inputs that
                are not finite are errors of their examples.
        """
        now = self._tick(now)
        terms = Terms(policy, deadline_ms, cap_exit, client, traced)
        request, rows, errors = self._admission.admit(x, now, terms)
        self._book.add(request)
        for position, error in errors:
            request.fail(0, position, error)
        if len(rows):
            self._queues.add(0, Part(request, rows, now), now)
        self._book.settle(request, now)
        return request.ticket

    def audit(self, ticket: Ticket) -> None:
        """Run the examples of a request on to the last exit after they are answered, when nothing else is to do.

        It is to follow `submit` at once; examples that have stopped already are not run on.
        """
        request = self._book.find(ticket)
        if request is not None:
            request.audit = True

    def next(self, now: float) -> Batch | None:
        """Return examples whose graph is to run now, or None. Each batch is to be returned by `done` or `failed`."""
        now = self._tick(now)
        while self._again:
            stage, parts = self._again.pop()
            if parts := [part for part in parts if not part.request.closed]:
                return self._start(stage, parts, now)
        while (choice := self._queues.choose(now)) is not None:
            parts = choice.pool.take(choice.size, now)
            if choice.pool.stage == 0:
                self._admission.order.run(max(part.tag(len(part) - 1) for part in parts))
            else:
                parts = self._in_time(parts, now + choice.seconds)
            if parts:
                return self._start(choice.pool.stage, parts, now)
        audit = None if len(self._queues) else self._audits.take(now)
        return None if audit is None else self._start(*audit, now, audit=True)

    def done(self, batch: Batch, result: Result, now: float) -> None:
        """Add the outputs of a graph for the rows of a batch; outputs of rows that `Batch.padded` added are ignored.

        Raises:
            ValueError: If the batch does not run, or an output has too few rows; return the batch by `failed` then.
        """
        least = min(map(len, (result.prediction, *result.carried)))
        if result.scores is not None:
            least = min(least, len(result.scores))
        if least < len(batch):
            raise ValueError(f"expected outputs for {len(batch)} examples, got {least}; run the graph on batch.arrays")
        now, start = self._tick(now), 0
        self._end(batch, now)
        self.times.record(batch.stage, batch.numbers, batch.size, now - batch.started)
        outputs = Outputs(batch.stage, result, len(batch))
        for part in batch.parts:
            reached = Reached(part, outputs, start)
            start += len(part)
            if batch.audit:
                self._audits.advance(reached, now)
            elif not part.request.closed:
                self._split(reached, batch.started, now)

    def failed(self, batch: Batch, error: Exception, now: float) -> None:
        """Let both halves of a batch that failed run again, or record the error of a single example.

        Raises:
            ValueError: If the batch does not run.
        """
        now = self._tick(now)
        self._end(batch, now)
        if batch.audit:
            self._audits.failed(batch)
            return
        if len(batch) > 1:
            self._again += [(batch.stage, half) for half in batch.halves()]
            return
        (part,) = batch.parts
        request, plain = part.request, part.request.unpadded
        if request.closed:
            return
        if batch.stage == 0 and plain is not None and plain.signature != part.rows.signature:
            self._again.append((0, [Part(request, plain.take(part.rows.positions), part.since)]))
            return
        request.fail(batch.stage, int(part.rows.positions[0]), error)
        self._book.settle(request, now)

    def collect(self, now: float) -> list[Outcome]:
        """Remove and return the outcomes of requests that are answered, those whose deadline has come among them."""
        self._tick(now)
        return self._book.collect()

    def audited(self) -> list[Audited]:
        """Remove and return the examples that were run on to the last exit after their answer, or were dropped."""
        return self._audits.collect()

    def cancel(self, ticket: Ticket, now: float) -> bool:
        """Remove a request, which has no outcome and no audits then; return False if it is answered or cancelled."""
        now = self._tick(now)
        request = self._book.find(ticket)
        if request is None:
            return False
        self._book.remove(request, now)
        self._queues.remove([request])
        self._audits.cancel(request)
        return True

    def close(self, *, audits: bool = False) -> None:
        """Refuse all further requests, and finish the accepted ones without waiting for others.

        Args:
            audits: Whether examples are still run on to the last exit. If not, they are dropped; call it again to drop
                them later.
        """
        self._admission.closed, self._queues.patient = True, False
        if not audits:
            self._audits.close()

    def wake_at(self, now: float) -> float:
        """Return the time, in seconds, of the next call of `collect` and `next` if nothing else happens, or +inf."""
        now = self._tick(now)
        return min(self._queues.wake_at(now), self._book.next_deadline)

    def load(self) -> Load:
        """Return the numbers of requests and examples that the scheduler holds."""
        waiting = [self._queues.before(stage) for stage in range(self._last + 1)]
        for stage, parts in self._again:
            waiting[stage] += sum(map(len, parts))
        rows, running, audits = self._book.rows, len(self._running), self._audits
        return Load(len(self._book), rows, tuple(waiting), running, len(audits), audits.dropped)

    def _tick(self, now: float) -> float:
        """Return the present time, not before that of the last call, after answering requests that are overdue."""
        self._now = max(self._now, now)
        if overdue := self._book.overdue(self._now):
            parts = self._queues.remove(overdue)
            groups = [batch.parts for batch in self._running.values() if not batch.audit]
            groups += [tuple(again) for _, again in self._again]
            parts += [part for group in groups for part in group if part.request in overdue]
            for part in parts:
                self._answer_late(part)
        return self._now

    def _start(self, stage: int, parts: Sequence[Part], now: float, audit: bool = False) -> Batch:
        """Return a new batch, which runs from now on."""
        size = self._options.size_of(sum(map(len, parts)))
        batch = Batch(self._batches, stage, tuple(parts), size, now, audit)
        self._running[batch.number] = batch
        self._batches += 1
        return batch

    def _end(self, batch: Batch, now: float) -> None:
        """Remove a batch from those that run, and note it in the requests that are traced."""
        if self._running.get(batch.number) is not batch:
            raise ValueError(
                f"expected a batch that runs, got {batch!r}, which was returned before or is of another "
                "scheduler; return each batch once"
            )
        del self._running[batch.number]
        batch.note(now)

    def _split(self, reached: Reached, started: float, now: float) -> None:
        """Finish the examples of a part that stop, and let the others wait before the next stage."""
        part, request, split = reached.part, reached.part.request, reached.split()
        if split.stopped is not None:
            request.finish(split.stopped)
        if split.capped is not None:
            request.finish(split.capped, "capped")
        for position, error in split.errors:
            request.fail(reached.exit, position, error)
        if split.behind is not None:
            rows, index = split.behind
            last = reached.finished(index).prediction if request.deadline < math.inf else None
            waited = part.waited + started - part.since
            self._queues.add(reached.exit + 1, Part(request, rows, now, waited, last), now, reached.outputs.signature)
        if split.stopped is not None and request.audit:
            self._audits.begin(reached, split.stopped, now)
        self._book.settle(request, now)

    def _in_time(self, parts: list[Part], end: float) -> list[Part]:
        """Answer the examples whose deadline comes before the end of a run, and return the others."""
        for part in parts:
            if part.request.deadline < end:
                self._answer_late(part)
        return [part for part in parts if not part.request.deadline < end]

    def _answer_late(self, part: Part) -> None:
        """Answer examples by the exit behind them, or let them fail before the first one."""
        request, finished = part.request, part.at_last_exit()
        if finished is None:
            missed = DeadlineError(
                "expected an answer before the deadline, got none: it came before the first exit; allow more time"
            )
            for position in part.rows.positions:
                request.fail(0, int(position), missed)
        else:
            unsound = check_late(finished)
            for position, error in unsound:
                request.fail(finished.exit, position, error)
            kept = np.isin(finished.positions, [position for position, _ in unsound], invert=True)
            if kept.any():
                request.finish(finished.take(kept.nonzero()[0]), "late")
        self._book.settle(request, self._now)
