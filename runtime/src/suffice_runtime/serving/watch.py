"""Snapshot of what is watched on live requests: the promise of the policy, exits, costs and uncertainty."""

from dataclasses import dataclass
from typing import Literal

from suffice_runtime.policy import Promise


@dataclass(frozen=True)
class Alarm:
    """Alarm on live requests.

    Attributes:
        kind: "loss", if answers differ from the last exit more often than promised; "exits", if the shares of exits
            differ from those of the policy.
        policy_version: Number of the policy that was in force.
        observations: Number of audited losses, or exits, under this policy up to the alarm.
        time: Time of the alarm, in seconds since 1970.
    """

    kind: Literal["loss", "exits"]
    policy_version: int
    observations: int
    time: float


@dataclass(frozen=True)
class Watch:
    """What is known of the requests that were answered under the policy in force. No label is used.

    Losses are those of the loss "agreement": 1 where an answer differs from that of the last exit, else 0. They are
    known of a random share of the requests. Requests with a policy of their own, a deadline or a cap are not observed,
    as their answers are not those of the policy. Tests and bounds are valid however often they are looked at, if
    requests are chosen for audits and cancelled for reasons that do not depend on their examples.

    Attributes:
        policy_version: Number of the policy in force, counted from 1.
        promise: Promise of the policy if its loss is "agreement", else None; only with one there are alarms of losses.
        step: Place of the policy in the certified sequence, counted from 0; each alarm of losses raises it by 1.
        steps: Number of policies in this sequence, the last of which never stops early; 0 without a promise.
        e_value: Evidence that the promise is broken; an alarm is raised when it reaches `e_limit`. None without one.
        e_limit: 1/α of this step; the α of all steps sum to at most `alpha`.
        audited: Number of examples whose loss is known.
        loss: Mean of these losses; None if there are none.
        bound: Upper bound on the expected loss, averaged over these examples, that holds at all times at once with
            probability 1 − `alpha`; None if there are none.
        exits: Number (K,) of observed examples that were answered at each exit.
        shares: Stated shares (K,) of the policy.
        tolerance: Difference from a stated share that is no reason for an alarm.
        exits_e_value: Evidence that a share differs by more; None if exits are not watched.
        exits_e_limit: Evidence at which the alarm is raised.
        cost: Mean multiply-adds of the observed examples, each as a fraction of those of the last exit for its number
            of tokens; None without any, and if the costs are not known.
        expected_cost: The same on the validation data.
        epistemic: Mean epistemic uncertainty of the observed examples in nats; of a regression, the variance. None
            without any.
        alarms: Alarms since the start, the oldest first.
        alpha: Probability of a false alarm over all time, for losses and for exits each.
        waiting: Number of examples of requests that are audited and whose losses are not yet added.
        skipped: Number of requests that were chosen for an audit for which there was no room.
        unobserved: Number of requests with a policy of their own, a deadline or a cap.
    """

    policy_version: int
    promise: Promise | None
    step: int
    steps: int
    e_value: float | None
    e_limit: float | None
    audited: int
    loss: float | None
    bound: float | None
    exits: tuple[int, ...]
    shares: tuple[float, ...]
    tolerance: float
    exits_e_value: float | None
    exits_e_limit: float | None
    cost: float | None
    expected_cost: float
    epistemic: float | None
    alarms: tuple[Alarm, ...]
    alpha: float
    waiting: int
    skipped: int
    unobserved: int
