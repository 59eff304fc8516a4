"""Choice between predictions with and without posteriors, by their NLL on the validation data.

A temperature often repairs all that a posterior would. Then the posterior only adds cost and sampling error, and
predictions are better without it. All exits are tuned with and without posteriors. If those lower the summed NLL by
more than two standard errors of the difference and one nat for each tuned prior precision, which is the gain to expect
from fitting one more parameter to the same data (Akaike 1974), they are used at the exits where leaving them out, one
after the other, raises the NLL by as much.
"""

import math
from collections.abc import Collection, Sequence

import torch

from suffice.calibration.choices import Choices
from suffice.calibration.exits import CalibratedExit
from suffice.calibration.tuning import validation
from suffice.calibration.tuning.objective import Objective
from suffice.calibration.tuning.ranges import TunedValue
from suffice.utils import threads

_ERRORS = 2.0
"""Standard errors of the difference that a posterior has to gain."""


def tune(
    exits: Sequence[CalibratedExit], objective: Objective, choices: Choices
) -> tuple[list[CalibratedExit], list[TunedValue]]:
    """Tune the exits with and without their posteriors, and return those that the validation data support.

    Exits whose posterior is not supported predict with the link "plugin". They keep it, with its initial δ.

    Args:
        exits: K exits.
        objective: Validation data and the ensemble.
        choices: Which values are tuned.

    Returns:
        The tuned exits and the tuned values.
    """
    tuned, values = validation.tune(exits, objective, choices)
    if not any(exit_.uses_posterior for exit_ in exits):
        return tuned, values
    plain, plain_values = validation.tune(_without(exits, range(len(exits))), objective, choices)
    with threads.one_thread_if_small(objective.largest_operation(exits)):
        if not _is_better(tuned, plain, objective):
            return plain, plain_values
        kept = tuned
        for k in range(len(exits)):  # one after the other, as two exits may gain the same
            fewer = _without(kept, [k])
            kept = kept if _is_better(kept, fewer, objective) else fewer
    dispensable = [k for k, exit_ in enumerate(kept) if not exit_.uses_posterior]
    return validation.tune(_without(exits, dispensable), objective, choices, values) if dispensable else (tuned, values)


def _without(exits: Sequence[CalibratedExit], numbers: Collection[int]) -> list[CalibratedExit]:
    """Return the exits, those with these numbers without their posteriors."""
    return [exit_.without_posterior() if k in numbers else exit_ for k, exit_ in enumerate(exits)]


@torch.no_grad()
def _is_better(exits: Sequence[CalibratedExit], others: Sequence[CalibratedExit], objective: Objective) -> bool:
    """Return whether the NLL of exits with more posteriors is lower, beyond chance and the fit of their δ."""
    chunks = objective.chunks(exits)
    gains = torch.cat([objective.nll(others, rows) - objective.nll(exits, rows) for rows in chunks])
    error = float(gains.std()) * math.sqrt(len(gains)) if len(gains) > 1 else math.inf
    more = sum(exit_.uses_posterior for exit_ in exits) - sum(exit_.uses_posterior for exit_ in others)
    return float(gains.sum()) > _ERRORS * error + more
