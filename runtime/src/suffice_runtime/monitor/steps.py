"""Steps back along a certified sequence of policies, one at each alarm.

The policy at place i = 0, 1, … of the sequence is watched by a `LossAlarm` of its own, which starts when the policy
comes into force, with α_i = α/((i + 1)(i + 2)). These sum to at most α, so the probability that any policy is left
while its promise holds is at most α, however the traffic changes.
"""

from dataclasses import dataclass, replace

from numpy.typing import ArrayLike

from suffice_runtime.monitor.checks import check_open, check_whole, read_unit
from suffice_runtime.monitor.loss import LossAlarm


@dataclass(frozen=True, eq=False)
class StepBack:
    """Place in a certified sequence of policies, and the evidence against the one in force.

    Attributes:
        alpha: Probability that any policy is left while its promise holds.
        policies: Number of policies; the last one is the safest.
        step: Place of the policy in force, counted from 0.
        watched: Evidence against the policy in force.
        alarms: Number of losses of each policy before its alarm.

    Example:
        >>> import numpy as np
        >>> from suffice_runtime.monitor import StepBack
        >>> state = StepBack.start(policies=3, max_loss=0.01, alpha=0.05)
        >>> state = state.update(np.arange(400) % 10 == 0, step=0)
        >>> state.step, state.alarms, state.exhausted
        (1, (31,), False)
    """

    alpha: float
    policies: int
    step: int
    watched: LossAlarm
    alarms: tuple[int, ...] = ()

    @classmethod
    def start(cls, policies: int, max_loss: float, alpha: float) -> "StepBack":
        """Return the state in which the first policy is in force.

        Args:
            policies: Number of policies of the sequence, from the cheapest to the safest. The last one usually never
                stops early, so that its loss is 0.
            max_loss: Bound on the mean loss that every policy promises, in (0, 1).
            alpha: Probability that any policy is left while its promise holds.

        Raises:
            ValueError: For numbers outside their ranges.
        """
        count = check_whole("policies", policies, 1)
        return cls(check_open("alpha", alpha), count, 0, LossAlarm.start(max_loss, alpha * share_of_step(0)))

    @property
    def exhausted(self) -> bool:
        """True after an alarm of the last policy."""
        return len(self.alarms) == self.policies

    def update(self, losses: ArrayLike, *, step: int) -> "StepBack":
        """Return the state after losses (n,) in [0, 1] of one policy, in order of time.

        Losses of a policy that was left already, whose audits come late, are ignored, also those after an alarm in
        `losses`. The order must not depend on the losses.

        Args:
            losses: Losses of audited answers.
            step: Place of the policy that gave these answers.

        Raises:
            ValueError: For a loss outside [0, 1], and a policy that was not yet in force.
        """
        x = read_unit(losses, ())
        if not 0 <= step <= self.step:
            raise ValueError(f"expected the place of a policy that was in force, 0 to {self.step}, got {step}")
        if step < self.step or self.exhausted:
            return self
        watched = self.watched
        for i in range(len(x)):
            watched = watched.update(x[i : i + 1])
            if watched.alarm:
                return self._leave(watched)
        return replace(self, watched=watched)

    def check(self) -> None:
        """Raise a ValueError unless a restored state is one that alarms can lead to."""
        check_open("alpha", self.alpha)
        expected = min(len(self.alarms), self.policies - 1)
        if not 0 <= len(self.alarms) <= self.policies or self.step != expected:
            raise ValueError(f"expected step {expected} after {len(self.alarms)} alarms, got {self.step}")
        self.watched.check()

    def _leave(self, watched: LossAlarm) -> "StepBack":
        """Return the state after the alarm of the policy in force."""
        alarms = (*self.alarms, int(watched.alarm))
        if len(alarms) == self.policies:
            return replace(self, watched=watched, alarms=alarms)
        fresh = LossAlarm.start(watched.max_loss, self.alpha * share_of_step(len(alarms)))
        return replace(self, step=len(alarms), watched=fresh, alarms=alarms)


def share_of_step(step: int) -> float:
    """Return the share 1/((i + 1)(i + 2)) of α for the policy at place i; they sum to 1."""
    return 1 / ((step + 1) * (step + 2))
