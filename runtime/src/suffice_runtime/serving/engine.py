"""Engine that serves one bundle: a scheduler, the threads that run its graphs, and what is watched.

Every call of the scheduler is under one lock, and no graph runs under it. Each of the worker threads repeats: return
the outputs of its last batch, take the next one, deliver what is answered, and run the graph, or sleep until a request
comes or the scheduler has something to do. So a graph runs in the thread that chose it.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from suffice_runtime.bundle.manifest import Manifest
from suffice_runtime.bundle.sessions import Result
from suffice_runtime.policy import Policy
from suffice_runtime.runner import Runner
from suffice_runtime.scheduling.options import Options
from suffice_runtime.scheduling.pools import Batch
from suffice_runtime.scheduling.requests import Outcome, RefusedError, Ticket
from suffice_runtime.scheduling.scheduler import Scheduler
from suffice_runtime.serving.statistics import Meter, Statistics

Answered = tuple["Future[Outcome]", Outcome]
Ran = tuple[Batch, Result | Exception, float]

_LOG = logging.getLogger(__name__)


class Engine:
    """One bundle that is served to many threads.

    Requests that are accepted together share the runs of each stage. Each is answered under the policy that was in
    force when it was accepted, or its own.

    Args:
        runner: Bundle with a policy.
        options: Sizes and limits of the scheduler.
        name: Name of the model.
        version: Version of the model.
        workers: Number of threads that run graphs.
        audit_share: Fraction of the requests whose answers are compared with the last exit afterwards.
        seed: Seed of the random choice of these requests.
        clock: Function that returns the time in seconds, which never falls.

    Attributes:
        name: Name of the model.
        version: Version of the model.
        manifest: Description of the bundle.

    Raises:
        ValueError: If the bundle has no policy, or an argument is out of range.

    Example:
        >>> from suffice_runtime import Runner
        >>> from suffice_runtime.serving.engine import Engine
        >>> engine = Engine(Runner("bundle"))  # doctest: +SKIP
        >>> engine.submit(x, deadline_ms=50).result().answer.label  # doctest: +SKIP
        array([3])
        >>> engine.close()  # doctest: +SKIP
        True
    """

    manifest: Manifest

    def __init__(
        self,
        runner: Runner,
        options: Options | None = None,
        *,
        name: str = "model",
        version: str = "1",
        workers: int = 1,
        audit_share: float = 0.01,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if workers < 1:
            raise ValueError(f"expected workers of at least 1, got {workers}")
        if not 0 <= audit_share <= 1:
            raise ValueError(f"expected audit_share as a fraction in [0, 1], got {audit_share}")
        options = options or Options()
        self.name, self.version, self.manifest = name, version, runner.manifest
        network = runner._network
        self._scheduler, self._graphs, self._clock = Scheduler(network, options), network.graphs, clock
        self._meter = Meter(len(network.graphs), options.sizes, clock())
        self._changed = threading.Condition(threading.Lock())
        self._open = dict[int, "Future[Outcome]"]()
        self._idle, self._policy_version = 0, 1
        self._failure: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._work, name=f"suffice-{name}-{i}", daemon=True) for i in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def policy(self) -> Policy:
        """Policy of requests that come without one. Those accepted before keep the policy that they came under."""
        return self._scheduler.policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        with self._changed:
            self._scheduler.policy = policy
            self._policy_version += 1

    @property
    def policy_version(self) -> int:
        """Number of the policy in force, counted from 1, which rises with every replacement."""
        return self._policy_version

    def policy_for(self, budget: float) -> Policy:
        """Return the dearest policy of the bundle whose expected cost is within a budget.

        Args:
            budget: Mean multiply-adds per example as a fraction of those of the last exit, in (0, 1].

        Raises:
            ValueError: If the budget is out of range, or below the cost of the cheapest policy.
        """
        if not 0 < budget <= 1:
            raise ValueError(f"expected a budget as a fraction of the full network's cost in (0, 1], got {budget}")
        fractions = [(self.manifest.fraction(policy), policy) for policy in self.manifest.policies]
        within = [policy for fraction, policy in fractions if fraction <= budget]
        if not within:
            raise ValueError(
                f"expected a budget of at least {fractions[0][0]:.4g}, the cost of the cheapest policy of this bundle, "
                f"got {budget:g}; export policies of smaller budgets with policies=…"
            )
        return within[-1]

    async def answer(self, x: Any, **terms: Any) -> Outcome:
        """Return the outcome of a request; if the task is cancelled, so is the request.

        Args:
            x: Inputs as for `Runner.run`, which must not change until they are answered.
            terms: Parameters as for `submit`.

        Raises:
            RefusedError: If there is no room, or the engine is closed.
            TypeError: For inputs of another type.
            ValueError: For names, shapes or parameters that are not those of the network.
        """
        return await asyncio.wrap_future(self.submit(x, **terms))

    def submit(
        self,
        x: Any,
        *,
        policy: Policy | None = None,
        deadline_ms: float | None = None,
        cap_exit: int | None = None,
        client: str | None = None,
    ) -> "Future[Outcome]":
        """Accept a request, and return the future of its outcome; `cancel` of the future cancels the request.

        Args:
            x: Inputs as for `Runner.run`, which must not change until they are answered.
            policy: Policy of this request in place of the one in force.
            deadline_ms: Milliseconds after which every example is answered by the last exit that it passed.
            cap_exit: Exit, counted from 0, at which every example stops at the latest.
            client: Name of a client, whose requests share the engine with those of others.

        Raises:
            RefusedError: If there is no room, or the engine is closed.
            TypeError: For inputs of another type.
            ValueError: For names, shapes or parameters that are not those of the network.
        """
        future = Future[Outcome]()
        terms: dict[str, Any] = {"policy": policy, "deadline_ms": deadline_ms, "cap_exit": cap_exit, "client": client}
        with self._changed:
            if self._failure is not None:
                self._meter.refused += 1
                raise RefusedError(f"expected an engine that runs, got one that stopped: {self._failure!r}", None)
            ticket = self._accept(x, terms)
            self._open[ticket.number] = future
            if self._idle:
                self._changed.notify()
        future.add_done_callback(partial(self._end, ticket))
        return future

    def statistics(self) -> Statistics:
        """Return a snapshot of the counts since the start."""
        with self._changed:
            return self._meter.snapshot(self._scheduler.load(), self._clock())

    def close(self, timeout: float | None = None) -> bool:
        """Refuse new requests, answer the accepted ones, and end the threads.

        Args:
            timeout: Seconds to wait for the answers; None for as long as they take.

        Returns:
            Whether all threads have ended. If not, they go on, and end after the last answer.
        """
        end = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            self._scheduler.close()
            self._changed.notify_all()
        others = [thread for thread in self._threads if thread is not threading.current_thread()]
        for thread in others:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in others)

    def _accept(self, x: Any, terms: dict[str, Any]) -> Ticket:
        """Let the scheduler accept a request, and count its refusal."""
        try:
            return self._scheduler.submit(x, self._clock(), **terms)
        except RefusedError:
            self._meter.refused += 1
            raise
        except (TypeError, ValueError):
            self._meter.invalid += 1
            raise

    def _end(self, ticket: Ticket, future: "Future[Outcome]") -> None:
        """Cancel the request of a future that was cancelled."""
        if not future.cancelled():
            return
        with self._changed:
            if self._open.pop(ticket.number, None) is not None:
                self._scheduler.cancel(ticket, self._clock())
                self._meter.cancelled += 1
                if self._idle:
                    self._changed.notify()

    def _work(self) -> None:
        """Run graphs until the engine is closed and everything is answered."""
        ran: Ran | None = None
        try:
            while True:
                answered, batch = self._step(ran)
                for future, outcome in answered:
                    if future.set_running_or_notify_cancel():
                        future.set_result(outcome)
                if batch is None:
                    if not answered:
                        return
                    ran = None
                else:
                    ran = self._run(batch)
        except BaseException as error:
            self._fail(error)

    def _step(self, ran: Ran | None) -> tuple[list[Answered], Batch | None]:
        """Return outputs to the scheduler, and take what is answered and the next batch; neither if all is done."""
        with self._changed:
            if ran is not None:
                self._return(*ran)
            while self._failure is None:
                now = self._clock()
                batch = self._scheduler.next(now)
                answered = self._collect(now)
                if batch is not None or answered:
                    if batch is not None and self._idle:
                        self._changed.notify()  # another thread may find a batch, too
                    return answered, batch
                if self._scheduler.drained:
                    self._changed.notify_all()
                    break
                self._sleep(self._scheduler.wake_at(now) - now)
            return [], None

    def _return(self, batch: Batch, result: Result | Exception, seconds: float) -> None:
        """Return the outputs of a graph, or its error, to the scheduler."""
        now = self._clock()
        self._meter.add_run(batch, seconds)
        if not isinstance(result, Exception):
            try:
                self._scheduler.done(batch, result, now)
                return
            except ValueError as error:  # too few rows
                result = error
        self._scheduler.failed(batch, result, now)

    def _collect(self, now: float) -> list[Answered]:
        """Take the outcomes of requests that are answered, with their futures."""
        answered = list[Answered]()
        for outcome in self._scheduler.collect(now):
            self._meter.add_outcome(outcome)
            future = self._open.pop(outcome.ticket.number, None)
            if future is not None:
                answered.append((future, outcome))
        return answered

    def _sleep(self, seconds: float) -> None:
        """Wait for a change, at most some seconds."""
        self._idle += 1
        try:
            self._changed.wait(None if seconds == float("inf") else min(max(seconds, 0.0), threading.TIMEOUT_MAX))
        finally:
            self._idle -= 1

    def _run(self, batch: Batch) -> Ran:
        """Run the graph of a batch; an error of it is returned."""
        start = self._clock()
        try:
            result: Result | Exception = self._graphs[batch.stage](batch.padded())
        except Exception as error:  # whatever a graph raises is the error of its examples
            result = error
        return batch, result, self._clock() - start

    def _fail(self, error: BaseException) -> None:
        """End the engine after an error of its own: every open request gets it, and later ones are refused."""
        _LOG.critical("the engine of %r stopped", self.name, exc_info=error)
        with self._changed:
            self._failure = self._failure or error
            futures, self._open = list(self._open.values()), {}
            self._changed.notify_all()
        for future in futures:
            if future.set_running_or_notify_cancel():
                failure = RuntimeError(f"expected an answer, but the engine stopped: {error!r}")
                failure.__cause__ = error
                future.set_exception(failure)
