"""What the observed examples say about one policy: sums, bounds and alarms, as states that are replaced."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from suffice_runtime.monitor import MeanBounds, ShareAlarm, StepBack
from suffice_runtime.monitor.steps import share_of_step
from suffice_runtime.policy import Policy

Floats = NDArray[np.float64]

ALPHA = 0.05
"""Probability of a false alarm over all time, for losses and for exits each."""

TOLERANCE = 0.05
"""Difference of a share of exits that is no reason for an alarm."""

_LARGEST = math.log(np.finfo(np.float64).max)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Observations under the policy in force.

    Attributes:
        bounds: Losses of audited examples.
        shares: Evidence on the shares of exits; None if they are not watched.
        exits: Number (K,) of observed examples at each exit.
        costs: Sum of their known multiply-adds, each as a fraction of those of the last exit, and the number of them.
        epistemic: Sum of their epistemic uncertainty.
        steps: Place in the certified sequence, with the evidence against the policy; None without a promise.
    """

    bounds: MeanBounds
    shares: ShareAlarm | None
    exits: NDArray[np.int64]
    costs: tuple[float, int]
    epistemic: float
    steps: StepBack | None

    @classmethod
    def start(cls, policy: Policy, steps: StepBack | None, *, watch_exits: bool) -> "Evidence":
        """Return the state before the first observation of a policy."""
        shares = ShareAlarm.start(policy.shares, TOLERANCE, ALPHA) if watch_exits else None
        return cls(MeanBounds.start(), shares, np.zeros(len(policy.shares), dtype=np.int64), (0.0, 0), 0.0, steps)

    def add_losses(self, losses: Sequence[float]) -> "Evidence":
        """Return the state after losses in order of time; after an alarm, its `steps` are at a later place."""
        steps = self.steps if self.steps is None else self.steps.update(losses, step=self.steps.step)
        return replace(self, bounds=self.bounds.update(losses), steps=steps)

    def add_exits(self, exits: Sequence[int], costs: Floats, epistemic: Floats) -> "Evidence":
        """Return the state after exits in order of time, with their costs and epistemic uncertainties."""
        known = ~np.isnan(costs)
        return replace(
            self,
            shares=None if self.shares is None else self.shares.update(exits),
            exits=self.exits + np.bincount(exits, minlength=len(self.exits)),
            costs=(self.costs[0] + float(costs[known].sum()), self.costs[1] + int(known.sum())),
            epistemic=self.epistemic + float(epistemic.sum()),
        )

    @cached_property
    def bound(self) -> float | None:
        """Upper bound on the mean loss at the level ALPHA; None without losses. It takes milliseconds to compute."""
        return float(self.bounds.upper(ALPHA)) if self.bounds.count else None

    @property
    def e_value(self) -> float | None:
        """Evidence against the promise; None without one."""
        return None if self.steps is None else float(self.steps.watched.e_value)

    @property
    def e_limit(self) -> float | None:
        """Evidence at which the policy in force is left; None without a promise."""
        return None if self.steps is None else 1 / (self.steps.alpha * share_of_step(self.steps.step))

    @property
    def exits_e_value(self) -> float | None:
        """Evidence that a share of exits differs from its stated one; None if they are not watched."""
        return None if self.shares is None else math.exp(min(self.shares.log_e, _LARGEST))

    @property
    def exits_e_limit(self) -> float | None:
        """Evidence at which the alarm on exits is raised; None if they are not watched."""
        return None if self.shares is None else 1 / self.shares.evidence.alpha
