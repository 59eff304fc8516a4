"""Watcher of live requests: which are observed, and the policy that the evidence leaves in force.

An observed request is chosen when it is accepted, by what was known before it: a coin, and the room and time that there
is. So what is observed is not a selection by examples, and observations are added in the order of acceptance.
"""

import random
import time
from collections import deque

import numpy as np

from suffice_runtime.bundle.manifest import Manifest
from suffice_runtime.monitor import StepBack
from suffice_runtime.policy import Policy
from suffice_runtime.prediction import Regression
from suffice_runtime.scheduling.requests import Audited, Outcome, Ticket
from suffice_runtime.serving.evidence import ALPHA, TOLERANCE, Evidence
from suffice_runtime.serving.ledger import Auditing, Exits, InOrder, Losses
from suffice_runtime.serving.sequence import certified
from suffice_runtime.serving.watch import Alarm, Watch

EXITS_PER_SECOND = 50.0
"""Examples per second whose exits are watched; below this rate all are. Each takes some 50 µs."""

AT_ONCE = 8
"""Losses, and exits, that `Watcher.advance` adds at once."""

ALARMS = 100
"""Number of alarms that are kept."""


class Watcher:
    """Observed requests of an engine, and the evidence on its policy.

    Args:
        manifest: Manifest of the bundle.
        policy: Policy in force at first.
        share: Fraction of the requests that are audited.
        room: Number of examples whose audits may be incomplete.
        seed: Seed of the choice.
        now: Time at the start, in seconds.
        watch_exits: Whether the shares of exits are compared with those of the policy.

    Attributes:
        policy: Policy in force.
        version: Number of this policy, counted from 1.
        sequence: Certified sequence that the policy is in, or a single policy without a promise.
        evidence: What is known of the policy in force.
        alarms: Alarms so far, the oldest first.
        changed: Whether anything was observed since this was last set to False.
    """

    def __init__(
        self, manifest: Manifest, policy: Policy, *, share: float, room: int, seed: int, now: float, watch_exits: bool
    ) -> None:
        self._manifest, self._room, self._watch_exits = manifest, room, watch_exits
        self._share = 0.0 if manifest.kind is Regression else share  # its answers have no labels to compare
        self._coin = random.Random(seed)
        self._open: dict[int, Auditing] = {}
        self._watched: dict[int, tuple[int, int]] = {}  # number of the policy and of the examples whose exits count
        self._losses, self._exits = InOrder[Losses](), InOrder[Exits]()
        self._new_losses = deque[tuple[int, float]]()
        self._new_exits = deque[tuple[int, int, float, float]]()
        self.alarms = deque[Alarm](maxlen=ALARMS)
        self._auditing = self._skipped = self._unobserved = 0
        self._allowed, self._last = EXITS_PER_SECOND, now
        self.version, self.changed = 0, False
        self.evidence: Evidence
        self.replace(policy)

    def replace(self, policy: Policy) -> None:
        """Put a policy in force, with a certified sequence of its own."""
        promise = policy.promise
        watched = promise is not None and promise.loss == "agreement" and self._manifest.kind is not Regression
        self.sequence: tuple[Policy, ...] = (policy,)
        steps = None
        if promise is not None and watched:
            self.sequence = certified(self._manifest, policy)
            steps = StepBack.start(len(self.sequence), promise.max_loss, ALPHA)
        self._put_in_force(policy, steps)

    def restore(self, evidence: Evidence, alarms: list[Alarm]) -> None:
        """Go on with the evidence that another watcher of the same sequence of policies had.

        Raises:
            ValueError: If the evidence is not for this sequence.
        """
        steps, mine = evidence.steps, self.evidence.steps
        if (steps is None) != (mine is None) or (evidence.shares is None) != (self.evidence.shares is None):
            raise ValueError("expected evidence for a policy with the same promise")
        if steps is not None and steps.policies != len(self.sequence):
            raise ValueError(f"expected a sequence of {len(self.sequence)} policies, got {steps.policies}")
        if steps is not None and steps.step:
            self._put_in_force(self.sequence[steps.step], steps)
        self.evidence, self.alarms = evidence, deque(alarms, maxlen=ALARMS)

    def enter(self, ticket: Ticket, now: float, *, own: bool) -> bool:
        """Add an accepted request.

        Args:
            ticket: Its ticket.
            now: Present time in seconds.
            own: Whether its answers are those of the policy in force: without another policy, a deadline and a cap.

        Returns:
            Whether it is to be audited.
        """
        number, examples = ticket.number, ticket.examples
        if not own or not examples:
            self._unobserved += not own
            return False
        if (watched := self._allow(examples, now)) > 0:
            self._exits.enter(number)
            self._watched[number] = self.version, watched
        if self._coin.random() >= self._share:
            return False
        if self._auditing + examples > self._room:
            self._skipped += 1
            return False
        self._auditing += examples
        self._losses.enter(number)
        self._open[number] = Auditing(self.version, examples, len(self.policy.shares) - 1)
        return True

    def answered(self, outcome: Outcome) -> None:
        """Add the outcome of a request."""
        number = outcome.ticket.number
        if (found := self._watched.pop(number, None)) is not None:
            version, watched = found
            self._exits.know(number, Exits.of(version, outcome, watched))
        if (auditing := self._open.get(number)) is not None:
            auditing.answer(outcome)
            self._settle(number, auditing)

    def audited(self, audited: Audited) -> None:
        """Add examples that were audited, or dropped."""
        number = audited.ticket.number
        if (auditing := self._open.get(number)) is not None:
            auditing.audit(audited)
            self._settle(number, auditing)

    def cancelled(self, ticket: Ticket) -> None:
        """Leave out a request that was cancelled before its answer."""
        number = ticket.number
        if self._watched.pop(number, None) is not None:
            self._exits.know(number, None)
        if (auditing := self._open.pop(number, None)) is not None:
            self._losses.know(number, auditing.nothing)

    def advance(self) -> bool:
        """Add some of the observations, in the order of their requests, to the evidence; return whether more wait."""
        for losses in self._losses.release():
            self._auditing -= losses.examples
            self._new_losses += [(losses.generation, loss) for loss in losses.losses.tolist()]
        for some in self._exits.release():
            columns = (some.exits.tolist(), some.costs.tolist(), some.epistemic.tolist())
            self._new_exits += [(some.generation, *row) for row in zip(*columns, strict=True)]
        self._add_losses()
        self._add_exits()
        return bool(self._new_losses or self._new_exits)

    def snapshot(self) -> Watch:
        """Return what is known of the policy in force."""
        evidence = self.evidence
        counted, (costs, priced) = int(evidence.exits.sum()), evidence.costs
        steps = evidence.steps
        return Watch(
            policy_version=self.version,
            promise=None if steps is None else self.policy.promise,
            step=0 if steps is None else steps.step,
            steps=0 if steps is None else steps.policies,
            e_value=evidence.e_value,
            e_limit=evidence.e_limit,
            audited=evidence.bounds.count,
            loss=float(evidence.bounds.mean) if evidence.bounds.count else None,
            bound=evidence.bound,
            exits=tuple(evidence.exits.tolist()),
            shares=tuple(self.policy.shares.tolist()),
            tolerance=TOLERANCE,
            exits_e_value=evidence.exits_e_value,
            exits_e_limit=evidence.exits_e_limit,
            cost=costs / priced if priced else None,
            expected_cost=self._manifest.fraction(self.policy),
            epistemic=evidence.epistemic / counted if counted else None,
            alarms=tuple(self.alarms),
            alpha=ALPHA,
            waiting=self._auditing,
            skipped=self._skipped,
            unobserved=self._unobserved,
        )

    def _put_in_force(self, policy: Policy, steps: StepBack | None) -> None:
        self.policy, self.version = policy, self.version + 1
        self.evidence = Evidence.start(policy, steps, watch_exits=self._watch_exits)

    def _allow(self, examples: int, now: float) -> int:
        """Return how many of some examples have their exits watched at this time."""
        self._allowed = min(EXITS_PER_SECOND, self._allowed + (now - self._last) * EXITS_PER_SECOND)
        self._last, some = now, min(examples, int(self._allowed))
        self._allowed -= some
        return some

    def _settle(self, number: int, auditing: Auditing) -> None:
        if auditing.complete:
            del self._open[number]
            self._losses.know(number, auditing.losses)

    def _add_losses(self) -> None:
        """Add some losses under the policy in force; after an alarm the next of its sequence is."""
        some = [self._new_losses.popleft() for _ in range(min(AT_ONCE, len(self._new_losses)))]
        mine = [loss for version, loss in some if version == self.version]
        if not mine:
            return
        before, self.changed = self.evidence.steps, True
        self.evidence = self.evidence.add_losses(mine)
        after = self.evidence.steps
        if before is not None and after is not None and len(after.alarms) > len(before.alarms):
            self.alarms.append(Alarm("loss", self.version, after.alarms[-1], time.time()))
            if after.step > before.step:
                self._put_in_force(self.sequence[after.step], after)

    def _add_exits(self) -> None:
        """Add some exits under the policy in force."""
        some = [self._new_exits.popleft() for _ in range(min(AT_ONCE, len(self._new_exits)))]
        mine = [row[1:] for row in some if row[0] == self.version]
        if not mine:
            return
        before, self.changed = self.evidence.shares, True
        exits, costs, epistemic = zip(*mine, strict=True)
        self.evidence = self.evidence.add_exits(exits, np.array(costs), np.array(epistemic))
        after = self.evidence.shares
        if before is not None and after is not None and after.alarm and not before.alarm:
            self.alarms.append(Alarm("exits", self.version, after.alarm, time.time()))
