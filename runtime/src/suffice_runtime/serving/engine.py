"""Engine that serves one bundle: the threads that run its graphs, with futures for the answers.

Every call of the core, which holds the scheduler and what is watched, is under one lock, and no graph runs under it.
Each thread repeats: return the outputs of its last batch, take the next one, deliver what is answered, and run the
graph; or sleep until a request comes or the scheduler has something to do. So a graph runs in the thread that chose it.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from suffice_runtime.bundle.manifest import Manifest
from suffice_runtime.bundle.sessions import Result
from suffice_runtime.policy import Policy
from suffice_runtime.runner import Runner
from suffice_runtime.scheduling.options import Options
from suffice_runtime.scheduling.pools import Batch
from suffice_runtime.scheduling.requests import Outcome, RefusedError, Ticket
from suffice_runtime.serving import sequence
from suffice_runtime.serving.core import Core
from suffice_runtime.serving.futures import Awaited, Delivery, Receiver, deliver
from suffice_runtime.serving.state import Keeper, StateFile
from suffice_runtime.serving.statistics import Statistics
from suffice_runtime.serving.warmup import run_stages
from suffice_runtime.serving.watch import Watch

_LOG = logging.getLogger(__name__)


class Engine:
    """One bundle that is served to many threads.

    Requests that are accepted together share the runs of each stage. Each is answered under the policy that was in
    force when it was accepted, or its own. An alarm that the promise of the policy does not hold puts a safer one in
    force. All methods may be called from several threads at once.

    Args:
        runner: Bundle with a policy.
        options: Sizes and limits of the scheduler.
        name: Name of the model.
        version: Its version.
        workers: Number of threads that run graphs.
        audit_share: Fraction of the requests that are run on to the last exit when nothing else is to do.
        seed: Seed of the random choice of these requests.
        track: Whether thresholds are running quantiles, which keep the cost of the policy when inputs drift
            (`drift.track`); not for a policy with a promise.
        state: File that keeps what is watched when the engine is stopped; None keeps nothing.
        clock: Function that returns the time in seconds, which never falls.

    Attributes:
        name: Name of the model.
        version: Its version.
        manifest: Description of the bundle.

    Raises:
        FileNotFoundError: If the folder of the state does not exist.
        ValueError: If the bundle has no policy, an argument is out of range, or the state is damaged.

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
        track: bool = False,
        state: str | os.PathLike[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if workers < 1:
            raise ValueError(f"expected workers of at least 1, got {workers}")
        self.name, self.version, self.manifest = name, version, runner.manifest
        network, options = runner._network, options or Options()
        self._graphs, self._clock = network.graphs, clock
        self._core = Core(network, options, audit_share=audit_share, seed=seed, track=track, now=clock())
        file = None if state is None else StateFile(Path(state))
        if file is not None:
            self._core.restore(file)
        run_stages(network, options.sizes if options.pad_batches else (1,), self._core.scheduler.times, clock)
        self._changed = threading.Condition(threading.Lock())
        self._open = dict[int, Receiver]()
        self._idle = 0
        self._failure: BaseException | None = None
        names = [f"suffice-{name}-{i}" for i in range(workers)]
        self._threads = [threading.Thread(target=self._work, name=each, daemon=True) for each in names]
        for thread in self._threads:
            thread.start()
        self._keeper = None if file is None else Keeper(file, partial(self._take_state, file))

    @property
    def policy(self) -> Policy:
        """Policy of requests that come without one. Those accepted before keep the policy that they came under."""
        return self._core.scheduler.policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        with self._changed:
            self._core.replace(policy)

    @property
    def policy_version(self) -> int:
        """Number of the policy in force, counted from 1, which rises with every replacement and every step back."""
        return self._core.watcher.version

    @property
    def ready(self) -> bool:
        """Whether requests are accepted if there is room."""
        return self._failure is None and not self._core.closed

    def policy_for(self, budget: float) -> Policy:
        """Return the dearest policy of the bundle within a budget, a fraction of the last exit's cost in (0, 1].

        Raises:
            ValueError: If the budget is out of range, or below the cost of the cheapest policy.
        """
        return sequence.within(self.manifest, budget)

    async def answer(
        self,
        x: Any,
        *,
        policy: Policy | None = None,
        deadline_ms: float | None = None,
        cap_exit: int | None = None,
        client: str | None = None,
    ) -> Outcome:
        """Return the outcome of a request, as `submit` does for threads; cancelling the task cancels the request."""
        loop = asyncio.get_running_loop()
        awaited = Awaited(loop, loop.create_future())
        ticket = self._enter(awaited, x, policy=policy, deadline_ms=deadline_ms, cap_exit=cap_exit, client=client)
        try:
            return await awaited.future
        except BaseException:  # cancelled, or stopped with its event loop
            self._cancel(ticket)
            raise

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
        ticket = self._enter(future, x, policy=policy, deadline_ms=deadline_ms, cap_exit=cap_exit, client=client)
        future.add_done_callback(lambda future: self._cancel(ticket) if future.cancelled() else None)
        return future

    def statistics(self) -> Statistics:
        """Return a snapshot of the counts since the start."""
        with self._changed:
            return self._core.statistics(self._clock())

    def watch(self) -> Watch:
        """Return a snapshot of what is watched: the promise, the loss, exits, costs, uncertainty and alarms."""
        with self._changed:
            return self._core.watcher.snapshot()

    def close(self, timeout: float | None = None) -> bool:
        """Refuse new requests, answer the accepted ones, finish audits within a second, and end the threads.

        Args:
            timeout: Seconds to wait; None for as long as it takes.

        Returns:
            Whether all threads have ended. If not, they go on, and end after the last answer.
        """
        end = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            self._core.close(self._clock())
            self._changed.notify_all()
        others = [thread for thread in self._threads if thread is not threading.current_thread()]
        for thread in others:
            thread.join(None if end is None else max(0.0, end - time.monotonic()))
        ended = not any(thread.is_alive() for thread in others)
        if ended and self._keeper is not None:
            self._keeper.close()
        return ended

    def _enter(self, receiver: Receiver, x: Any, **terms: Any) -> Ticket:
        """Accept a request, whose outcome goes to a receiver."""
        with self._changed:
            if self._failure is not None:
                raise RefusedError(f"expected an engine that runs, got one that stopped: {self._failure!r}", None)
            ticket = self._core.submit(x, self._clock(), **terms)
            self._open[ticket.number] = receiver
            if self._idle:
                self._changed.notify()
        return ticket

    def _cancel(self, ticket: Ticket) -> None:
        """Cancel a request that is not answered."""
        with self._changed:
            if self._open.pop(ticket.number, None) is not None:
                self._core.cancel(ticket, self._clock())
                self._changed.notify()

    def _work(self) -> None:
        """Run graphs until the engine is closed and everything is answered."""
        ran: tuple[Batch, Result | Exception] | None = None
        try:
            while True:
                answered, batch = self._step(ran)
                deliver(answered)
                if batch is None and not answered:
                    return
                ran = None if batch is None else (batch, self._run(batch))
        except BaseException as error:
            self._fail(error)

    def _run(self, batch: Batch) -> Result | Exception:
        """Run the graph of a batch, and return its outputs or the error that it raised."""
        try:
            return self._graphs[batch.stage](batch.padded())
        except Exception as error:  # whatever it is, it is the error of these examples
            return error

    def _step(self, ran: tuple[Batch, Result | Exception] | None) -> tuple[list[Delivery], Batch | None]:
        """Return outputs to the core, and take what is answered and the next batch; neither if the thread is to end."""
        with self._changed:
            if ran is not None and self._failure is None:
                self._core.finish(*ran, self._clock())
            while self._failure is None:
                now = self._clock()
                batch, outcomes, more = self._core.next(now), self._core.collect(now), self._core.advance()
                answered = self._take(outcomes)  # last, as futures that are taken have to be delivered
                if batch is not None or answered:
                    if batch is not None and self._idle:
                        self._changed.notify()  # another thread may find a batch, too
                    return answered, batch
                if self._core.scheduler.drained and not more:
                    self._changed.notify_all()
                    break
                if not more:
                    self._sleep(self._core.scheduler.wake_at(now) - now)
            return [], None

    def _take(self, outcomes: list[Outcome]) -> list[Delivery]:
        """Take the futures of requests that are answered, up to those that were cancelled meanwhile."""
        found = [(self._open.pop(outcome.ticket.number, None), outcome) for outcome in outcomes]
        return [(future, outcome) for future, outcome in found if future is not None]

    def _take_state(self, file: StateFile) -> bytes | None:
        """Return the bytes of the state, or None if it has not changed since the last call."""
        with self._changed:
            watcher = self._core.watcher
            if not watcher.changed:
                return None
            watcher.changed = False
            return file.payload(watcher)

    def _sleep(self, seconds: float) -> None:
        """Wait for a change, for at most some seconds."""
        self._idle += 1
        self._changed.wait(min(max(seconds, 0.0), threading.TIMEOUT_MAX))
        self._idle -= 1

    def _fail(self, error: BaseException) -> None:
        """Stop after an error of the engine itself: every open request gets it, and later ones are refused."""
        _LOG.critical("the engine of %r stopped", self.name, exc_info=error)
        with self._changed:
            self._failure = self._failure or error
            futures, self._open = list(self._open.values()), {}
            self._changed.notify_all()
        deliver([(future, error) for future in futures])
