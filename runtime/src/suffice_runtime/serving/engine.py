"""Engine that serves one bundle to many threads and event loops, under a policy whose promise is watched."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from suffice_runtime.bundle.manifest import Manifest
from suffice_runtime.bundle.tokenizer import is_texts
from suffice_runtime.policy import Policy
from suffice_runtime.runner import Runner
from suffice_runtime.scheduling.options import Options
from suffice_runtime.scheduling.requests import Outcome
from suffice_runtime.serving import sequence
from suffice_runtime.serving.core import Core
from suffice_runtime.serving.crew import Crew
from suffice_runtime.serving.futures import Awaited
from suffice_runtime.serving.state import Keeper, StateFile
from suffice_runtime.serving.statistics import Statistics
from suffice_runtime.serving.warmup import run_stages
from suffice_runtime.serving.watch import Watch


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
        self.name, self.version, self.manifest, self._runner = name, version, runner.manifest, runner
        network, options = runner._network, options or Options()
        self._clock = clock
        self._core = Core(network, options, audit_share=audit_share, seed=seed, track=track, now=clock())
        file = None if state is None else StateFile(Path(state))
        if file is not None:
            self._core.restore(file)
        run_stages(network, options.sizes if options.pad_batches else (1,), self._core.scheduler.times, clock)
        self._crew = Crew(self._core, network.graphs, workers, clock, name)
        self._keeper = None if file is None else Keeper(file, partial(self._take_state, file))

    @property
    def policy(self) -> Policy:
        """Policy of requests that come without one. Those accepted before keep the policy that they came under."""
        return self._core.scheduler.policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        with self._crew.lock:
            self._core.replace(policy)

    @property
    def policy_version(self) -> int:
        """Number of the policy in force, counted from 1, which rises with every replacement and every step back."""
        return self._core.watcher.version

    @property
    def ready(self) -> bool:
        """Whether requests are accepted if there is room."""
        return self._crew.failure is None and not self._core.closed

    def encode(self, texts: Sequence[str]) -> dict[str, Any]:
        """Return the arrays that the bundle's tokenizer makes of texts; errors are those of `Runner.encode`."""
        return self._runner.encode(texts)

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
        traced: bool = False,
    ) -> Outcome:
        """Return the outcome of a request, as `submit` does for threads; cancelling the task cancels the request."""
        loop = asyncio.get_running_loop()
        awaited = Awaited(loop, loop.create_future())
        x = self.encode(x) if is_texts(x) else x
        terms: dict[str, Any] = {"policy": policy, "deadline_ms": deadline_ms, "cap_exit": cap_exit}
        ticket = self._crew.enter(awaited, x, client=client, traced=traced, **terms)
        try:
            return await awaited.future
        except BaseException:  # cancelled, or stopped with its event loop
            self._crew.cancel(ticket)
            raise

    def submit(
        self,
        x: Any,
        *,
        policy: Policy | None = None,
        deadline_ms: float | None = None,
        cap_exit: int | None = None,
        client: str | None = None,
        traced: bool = False,
    ) -> "Future[Outcome]":
        """Accept a request, and return the future of its outcome; `cancel` of the future cancels the request.

        Args:
            x: Inputs as for `Runner.run`, which must not change until they are answered.
            policy: Policy of this request in place of the one in force.
            deadline_ms: Milliseconds after which every example is answered by the last exit that it passed.
            cap_exit: Exit, counted from 0, at which every example stops at the latest.
            client: Name of a client, whose requests share the engine with those of others.
            traced: Whether the outcome is to have the runs that its examples take part in.

        Raises:
            RefusedError: If there is no room, or the engine is closed.
            TypeError: For inputs of another type.
            ValueError: For names, shapes or parameters that are not those of the network.
        """
        future = Future[Outcome]()
        x = self.encode(x) if is_texts(x) else x
        terms: dict[str, Any] = {"policy": policy, "deadline_ms": deadline_ms, "cap_exit": cap_exit}
        ticket = self._crew.enter(future, x, client=client, traced=traced, **terms)
        future.add_done_callback(lambda future: self._crew.cancel(ticket) if future.cancelled() else None)
        return future

    def statistics(self) -> Statistics:
        """Return a snapshot of the counts since the start."""
        with self._crew.lock:
            return self._core.statistics(self._clock())

    def watch(self) -> Watch:
        """Return a snapshot of what is watched: the promise, the loss, exits, costs, uncertainty and alarms."""
        with self._crew.lock:
            return self._core.watcher.snapshot()

    def zero_ns(self) -> int:
        """Return the nanoseconds since 1970 at which the clock was 0."""
        return time.time_ns() - round(1e9 * self._clock())

    def close(self, timeout: float | None = None) -> bool:
        """Refuse new requests, answer the accepted ones, finish audits within a second, and end the threads.

        Args:
            timeout: Seconds to wait; None for as long as it takes.

        Returns:
            Whether all threads have ended. If not, they go on, and end after the last answer.
        """
        ended = self._crew.close(timeout)
        if ended and self._keeper is not None:
            self._keeper.close()
        return ended

    def _take_state(self, file: StateFile) -> bytes | None:
        """Return the bytes of the state, or None if it has not changed since the last call."""
        with self._crew.lock:
            watcher = self._core.watcher
            if not watcher.changed:
                return None
            watcher.changed = False
            return file.payload(watcher)
