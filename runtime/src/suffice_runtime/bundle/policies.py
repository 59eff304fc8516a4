"""Policies of a manifest: the one to run under, and those that a service may use in its place."""

from dataclasses import replace

import numpy as np

from suffice_runtime.bundle.costs import Costs
from suffice_runtime.bundle.entries import Entries
from suffice_runtime.policy import Policy


def read(entries: Entries, exits: int) -> tuple[Policy, ...]:
    """Return the policies of a manifest, the one to run under first; none if the bundle has no policy.

    Raises:
        ValueError: If an entry is missing or wrong, or a policy cannot be used in place of the others.
    """
    others = [] if entries.optional("policies") is None else entries.inners("policies")  # earlier bundles have none
    if entries.none("policy"):
        if others:
            raise entries.refuse("policy", "where there are policies", None)
        return ()
    digest = entries.mapping("hashes").get("calibrated")
    made_for = digest if isinstance(digest, str) else None
    policy, *rest = (
        replace(Policy.from_entries(each, exits), made_for=made_for) for each in (entries.inner("policy"), *others)
    )
    for i, other in enumerate(rest):
        if other.score != policy.score:
            raise entries.refuse(f"policies[{i}].score", f"as {policy.score!r}, that of the policy", other.score)
    return policy, *rest


def fraction(policy: Policy, costs: Costs) -> float:
    """Return the mean multiply-adds of a policy on the validation data as a fraction of those of the last exit.

    For texts, both are those of the length of the exported example.
    """
    macs = np.array(costs.macs, dtype=np.float64)
    return float(policy.shares @ macs / macs[-1]) if macs[-1] else 1.0
