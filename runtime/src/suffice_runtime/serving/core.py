"""Core of an engine, without threads and clocks: a scheduler, its statistics, and the watcher of its requests."""

from typing import Any

from suffice_runtime import drift
from suffice_runtime.bundle.sessions import Result
from suffice_runtime.policy import Policy
from suffice_runtime.running.network import Network
from suffice_runtime.scheduling.options import Options
from suffice_runtime.scheduling.pools import Batch
from suffice_runtime.scheduling.requests import Outcome, RefusedError, Ticket
from suffice_runtime.scheduling.scheduler import Scheduler
from suffice_runtime.serving.state import StateFile
from suffice_runtime.serving.statistics import Meter, Statistics
from suffice_runtime.serving.watcher import Watcher

AUDIT_SECONDS = 1.0
"""Seconds after `Core.close` for which audits may go on; the bound would be biased by those that are dropped."""


class Core:
    """Scheduler that is watched. Calls come one at a time, with times in seconds that do not fall.

    Args:
        network: Network of a bundle with a policy.
        options: Sizes and limits.
        audit_share: Fraction of the requests that are audited, in [0, 1].
        seed: Seed of the choice of these.
        track: Whether thresholds are running quantiles, which keep the cost of the policy when inputs drift.
        now: Time at the start.

    Attributes:
        scheduler: The scheduler.
        watcher: What is observed.

    Raises:
        ValueError: If the bundle has no policy, or an argument is out of range.
    """

    def __init__(
        self, network: Network, options: Options, *, audit_share: float, seed: int, track: bool, now: float
    ) -> None:
        if not 0 <= audit_share <= 1:
            raise ValueError(f"expected audit_share as a fraction in [0, 1], got {audit_share}")
        self.scheduler = Scheduler(network, options)
        policy, exits = self.scheduler.policy, len(network.graphs)
        self.watcher = Watcher(
            network.manifest,
            policy,
            share=audit_share,
            room=options.max_audit_rows,
            seed=seed,
            now=now,
            watch_exits=not track,
        )
        self._meter = Meter(exits, options.sizes, now)
        self._tracker = drift.track(policy) if track else None
        self._tracked = set[int]()  # numbers of the requests that the tracker follows
        self._capped, self._closed = options.cap_exit is not None and options.cap_exit < exits - 1, float("inf")
        self._last = exits - 1

    @property
    def closed(self) -> bool:
        """Whether all further requests are refused."""
        return self._closed < float("inf")

    def replace(self, policy: Policy) -> None:
        """Put a policy in force for requests that come without one."""
        tracker = None if self._tracker is None else drift.track(policy)
        self.scheduler.policy = policy  # which checks it
        self._tracker, self._tracked = tracker, set()
        self.watcher.replace(policy)

    def submit(self, x: Any, now: float, **terms: Any) -> Ticket:
        """Accept a request; parameters and errors are those of `Scheduler.submit`."""
        try:
            ticket = self.scheduler.submit(x, now, **terms)
        except RefusedError:
            self._meter.refused += 1
            raise
        except (TypeError, ValueError):
            self._meter.invalid += 1
            raise
        own = not self._capped and all(terms.get(name) is None for name in ("policy", "deadline_ms", "cap_exit"))
        if self.watcher.enter(ticket, now, own=own):
            self.scheduler.audit(ticket)
        if own and self._tracker is not None:
            self._tracked.add(ticket.number)
        return ticket

    def cancel(self, ticket: Ticket, now: float) -> None:
        """Remove a request that is not answered, which has no outcome then."""
        if self.scheduler.cancel(ticket, now):
            self._meter.cancelled += 1
            self._tracked.discard(ticket.number)
            self.watcher.cancelled(ticket)

    def next(self, now: float) -> Batch | None:
        """Return examples whose graph is to run now, or None."""
        if now >= self._closed + AUDIT_SECONDS and not self.scheduler.load().rows:
            self.scheduler.close()
        return self.scheduler.next(now)

    def finish(self, batch: Batch, result: Result | Exception, now: float) -> None:
        """Add the outputs of the graph of a batch, or its error."""
        self._meter.add_run(batch, now - batch.started)
        if not isinstance(result, Exception):
            try:
                self.scheduler.done(batch, result, now)
                return
            except ValueError as error:  # outputs of too few rows
                result = error
        self.scheduler.failed(batch, result, now)

    def collect(self, now: float) -> list[Outcome]:
        """Remove and return the outcomes of requests that are answered."""
        outcomes = self.scheduler.collect(now)
        for outcome in outcomes:
            self._meter.add_outcome(outcome)
            self.watcher.answered(outcome)
        for audited in self.scheduler.audited():
            self.watcher.audited(audited)
        if self._tracker is not None and outcomes:
            self._track(outcomes)
        return outcomes

    def restore(self, state: StateFile) -> None:
        """Go on with the evidence in a file, and with the policy that it left in force.

        Raises:
            ValueError: If the file is damaged.
        """
        version = self.watcher.version
        state.restore(self.watcher)
        self._follow(version)

    def advance(self) -> bool:
        """Add some observations to what is watched, which may replace the policy; return whether more wait."""
        version, more = self.watcher.version, self.watcher.advance()
        self._follow(version)
        return more

    def close(self, now: float) -> None:
        """Refuse all further requests, and finish the accepted ones, and audits for some time."""
        self._closed = min(self._closed, now)
        self.scheduler.close(audits=True)

    def statistics(self, now: float) -> Statistics:
        """Return a snapshot of the counts since the start."""
        return self._meter.snapshot(self.scheduler.load(), now)

    def _follow(self, version: int) -> None:
        """Put the policy of the watcher in force, if it is no longer the one of a version."""
        if self.watcher.version != version:
            self.scheduler.policy = self.watcher.policy

    def _track(self, outcomes: list[Outcome]) -> None:
        """Move the running thresholds by the scores of answered requests."""
        assert self._tracker is not None
        mine = [outcome for outcome in outcomes if outcome.ticket.number in self._tracked]
        for outcome in mine:
            self._tracked.remove(outcome.ticket.number)
            if outcome.answer is not None:
                self._tracker = self._tracker.update(outcome.answer)
        if mine:
            self.scheduler.policy = self._tracker.policy
