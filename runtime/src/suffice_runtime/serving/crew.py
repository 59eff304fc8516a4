"""Threads that run the graphs of a core, and deliver its answers.

Every call of the core is under one lock, and no graph runs under it. Each worker repeats: return the outputs of its
last batch, take the next one, deliver what is answered, and run the graph; or sleep until a request comes or the
scheduler has something to do. So a graph runs in the thread that chose it. Another thread delivers the answers of
requests whose deadline comes while all workers run graphs.
"""

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

from suffice_runtime.bundle.sessions import Graph, Result
from suffice_runtime.scheduling.pools import Batch
from suffice_runtime.scheduling.requests import Outcome, RefusedError, Ticket
from suffice_runtime.serving.core import Core
from suffice_runtime.serving.futures import Delivery, Receiver, deliver

Ran = tuple[Batch, Result | Exception]

_LOG = logging.getLogger(__name__)


class Crew:
    """Threads of one core.

    Args:
        core: The core.
        graphs: Graph of each stage.
        workers: Number of threads that run graphs.
        clock: Function that returns the time in seconds, which never falls.
        name: Name for the threads and the log.

    Attributes:
        lock: Lock under which the core is called.
        failure: Error of the core, after which all requests are refused; None as long as it runs.
    """

    def __init__(
        self, core: Core, graphs: Sequence[Graph], workers: int, clock: Callable[[], float], name: str
    ) -> None:
        self.lock = threading.Lock()
        self.failure: BaseException | None = None
        self._core, self._graphs, self._clock, self._name = core, graphs, clock, name
        self._changed, self._sooner = threading.Condition(self.lock), threading.Condition(self.lock)
        self._open = dict[int, Receiver]()
        self._idle, self._working = 0, workers
        self._due = math.inf  # when the thread for deadlines wakes
        targets = [self._work] * workers + [self._keep_deadlines]
        self._threads = [
            threading.Thread(target=target, name=f"suffice-{name}-{i}", daemon=True) for i, target in enumerate(targets)
        ]
        for thread in self._threads:
            thread.start()

    def enter(self, receiver: Receiver, x: Any, **terms: Any) -> Ticket:
        """Accept a request, whose outcome goes to a receiver.

        Raises:
            RefusedError: If there is no room, or the crew stops or has failed.
            TypeError: For inputs of another type.
            ValueError: For names, shapes or parameters that are not those of the network.
        """
        with self.lock:
            if self.failure is not None:
                raise RefusedError(f"expected an engine that runs, got one that stopped: {self.failure!r}", None)
            ticket = self._core.submit(x, self._clock(), **terms)
            self._open[ticket.number] = receiver
            if self._idle:
                self._changed.notify()
            if self._core.scheduler.next_deadline < self._due:
                self._sooner.notify()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Cancel a request that is not answered."""
        with self.lock:
            if self._open.pop(ticket.number, None) is not None:
                self._core.cancel(ticket, self._clock())
                self._changed.notify()

    def close(self, timeout: float | None) -> bool:
        """Refuse new requests, answer the accepted ones, and end the threads; return whether all have ended in time."""
        end = None if timeout is None else time.monotonic() + timeout
        with self.lock:
            self._core.close(self._clock())
            self._changed.notify_all()
        others = [thread for thread in self._threads if thread is not threading.current_thread()]
        for thread in others:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in others)

    def _work(self) -> None:
        """Run graphs until the core is closed and everything is answered."""
        ran: Ran | None = None
        try:
            while True:
                answered, batch = self._step(ran)
                deliver(answered)
                if batch is None and not answered:
                    break
                ran = None if batch is None else (batch, self._run(batch))
        except BaseException as error:
            self._fail(error)
        with self.lock:
            self._working -= 1
            self._sooner.notify()

    def _run(self, batch: Batch) -> Result | Exception:
        """Run the graph of a batch, and return its outputs or the error that it raised."""
        try:
            return self._graphs[batch.stage](batch.padded())
        except Exception as error:  # whatever it is, it is the error of these examples
            return error

    def _step(self, ran: Ran | None) -> tuple[list[Delivery], Batch | None]:
        """Return outputs to the core, and take what is answered and the next batch; neither if the thread is to end."""
        with self.lock:
            if ran is not None and self.failure is None:
                self._core.finish(*ran, self._clock())
            while self.failure is None:
                now = self._clock()
                batch, outcomes, more = self._core.next(now), self._core.collect(now), self._advance()
                answered = self._take(outcomes)  # last, as futures that are taken have to be delivered
                if batch is not None or answered:
                    if batch is not None and self._idle:
                        self._changed.notify()  # another thread may find a batch, too
                    return answered, batch
                if self._core.scheduler.drained and not more:
                    self._changed.notify_all()
                    break
                if not more:
                    self._idle += 1
                    self._changed.wait(_seconds(self._core.scheduler.wake_at(now) - now))
                    self._idle -= 1
            return [], None

    def _keep_deadlines(self) -> None:
        """Deliver the answers of requests when their deadlines come."""
        try:
            while True:
                with self.lock:
                    if not self._working or self.failure is not None:
                        return
                    now = self._clock()
                    answered = self._take(self._core.collect(now))
                    if not answered:
                        self._due = self._core.scheduler.next_deadline
                        self._sooner.wait(_seconds(self._due - now))
                deliver(answered)
        except BaseException as error:
            self._fail(error)

    def _take(self, outcomes: list[Outcome]) -> list[Delivery]:
        """Take the receivers of requests that are answered, up to those that were cancelled meanwhile."""
        found = [(self._open.pop(outcome.ticket.number, None), outcome) for outcome in outcomes]
        return [(receiver, outcome) for receiver, outcome in found if receiver is not None]

    def _advance(self) -> bool:
        """Add observations to what is watched, and log the alarms that they raise; return whether more wait."""
        watcher = self._core.watcher
        last = watcher.alarms[-1] if watcher.alarms else None
        more = self._core.advance()
        for alarm in takewhile(lambda alarm: alarm is not last, reversed(watcher.alarms)):
            _LOG.warning(
                "alarm of %r: %s, after %d observations under policy %d; policy %d is in force",
                self._name,
                alarm.kind,
                alarm.observations,
                alarm.policy_version,
                watcher.version,
            )
        return more

    def _fail(self, error: BaseException) -> None:
        """Stop after an error of the core: every open request gets it, and later ones are refused."""
        _LOG.critical("the engine of %r stopped", self._name, exc_info=error)
        with self.lock:
            self.failure = self.failure or error
            receivers, self._open = list(self._open.values()), {}
            self._changed.notify_all()
            self._sooner.notify()
        deliver([(receiver, error) for receiver in receivers])


def _seconds(seconds: float) -> float:
    """Return a time to wait that a condition takes."""
    return min(max(seconds, 0.0), threading.TIMEOUT_MAX)
