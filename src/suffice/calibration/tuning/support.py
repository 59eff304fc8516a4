"""Choice between predictions with and without the posterior, by their NLL on the validation data.

A temperature often repairs all that a posterior would. Then the posterior only adds cost and sampling error, and
predictions are better without it. Both are tuned, and the posterior is used if it lowers the NLL by more than two
standard errors of the difference.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

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
    without = [exit_.without_posterior() for exit_ in exits]
    plain, plain_values = validation.tune(without, objective, choices)
    with threads.one_thread_if_small(objective.largest_operation(exits)):
        gains = _nll(plain, objective) - _nll(tuned, objective)
    error = float(gains.std()) / math.sqrt(len(gains)) if len(gains) > 1 else math.inf
    return (tuned, values) if float(gains.mean()) > _ERRORS * error else (plain, plain_values)


@torch.no_grad()
def _nll(exits: Sequence[CalibratedExit], objective: Objective) -> Tensor:
    """Return the NLL (N,) of every validation example, summed over the predictions at all exits."""
    return torch.cat([objective.nll(exits, rows) for rows in objective.chunks(exits)])
