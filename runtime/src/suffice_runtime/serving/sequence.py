"""Choice among the policies of a bundle: within a budget, or to step back to."""

import math
from dataclasses import replace

import numpy as np

from suffice_runtime.bundle.manifest import Manifest
from suffice_runtime.policy import Policy


def within(manifest: Manifest, budget: float) -> Policy:
    """Return the dearest policy of a bundle whose expected cost is within a budget.

    Args:
        manifest: Manifest of a bundle with a policy.
        budget: Mean multiply-adds per example as a fraction of those of the last exit, in (0, 1].

    Raises:
        ValueError: If the budget is out of range, or below the cost of the cheapest policy.
    """
    if not 0 < budget <= 1:
        raise ValueError(f"expected a budget as a fraction of the full network's cost in (0, 1], got {budget}")
    found = [policy for policy in manifest.policies if manifest.fraction(policy) <= budget]
    if not found:
        least = manifest.fraction(manifest.policies[0])
        raise ValueError(
            f"expected a budget of at least {least:.4g}, the cost of the cheapest policy of this bundle, got "
            f"{budget:g}; export policies of smaller budgets with policies=…"
        )
    return found[-1]


def certified(manifest: Manifest, policy: Policy) -> tuple[Policy, ...]:
    """Return a policy and those to step back to, from the cheapest to the safest.

    These are the dearer policies of the bundle with the same guarantee, and one that never stops early, so that its
    answers are those of the last exit.
    """
    mine = manifest.fraction(policy)
    dearer = [one for one in manifest.policies if one.promise == policy.promise and manifest.fraction(one) > mine]
    sequence = (policy, *dearer)
    return sequence if _never_stops(sequence[-1]) else (*sequence, never_stopping(manifest, policy))


def never_stopping(manifest: Manifest, policy: Policy) -> Policy:
    """Return the policy of the same score under which every example runs to the last exit.

    A rule for prediction sets was fitted to the answers of the other policy; in its place every set holds everything.
    """
    shares = np.zeros(len(policy.shares))
    shares[-1] = 1.0
    sets = policy.sets
    return replace(
        policy,
        thresholds=np.full(len(policy.thresholds), math.inf),
        alternative=None,
        portion=0.0,
        budget=math.nan if policy.promise is not None else float(manifest.costs.macs[-1]),
        expected=float(manifest.costs.macs[-1]),
        unit="macs",
        shares=shares,
        sets=None if sets is None else replace(sets, thresholds=np.full(len(sets.thresholds), math.inf)),
    )


def _never_stops(policy: Policy) -> bool:
    return policy.alternative is None and bool((policy.thresholds == math.inf).all())
