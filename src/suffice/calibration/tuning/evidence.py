"""Prior precision of every exit by its marginal likelihood, which needs no validation data.

With the trained weights W and Laplace's approximation there, an exit's evidence as a function of its δ is

    log p(data | δ) ≈ constant − ½(δ Σ_c γ_c‖W_c‖² + log det Π(δ) − log det(δΓ ⊗ I))

a sum over eigenvalues. It selects the prior under which the trained weights are probable, which need not give the best
predictions. MacKay 1992; Immer et al. 2021 (for networks).
"""

import math
from collections.abc import Sequence

from torch import Tensor

from suffice.calibration.choices import Choices
from suffice.calibration.exits import CalibratedExit
from suffice.calibration.tuning import validation
from suffice.calibration.tuning.objective import Objective
from suffice.calibration.tuning.ranges import TunedValue, prior_range


def tune(
    exits: Sequence[CalibratedExit], objective: Objective, choices: Choices
) -> tuple[list[CalibratedExit], list[TunedValue]]:
    """Set δ to its value of maximum evidence, and tune temperatures and ensemble weights on validation data if any.

    Exits without a posterior keep their state. Those with learned noise already have the δ of maximum evidence.

    Args:
        exits: K exits.
        objective: Trained weights of each classifier, and validation data if there are any.
        choices: Which other values are tuned on the validation data.

    Returns:
        The tuned exits and the tuned values.
    """
    tuned, values = list(exits), list[TunedValue]()
    for k, (exit_, weights) in enumerate(zip(exits, objective.classifiers, strict=True)):
        if exit_.posterior is not None and not exit_.likelihood.learns_noise:
            delta = _maximize(exit_, weights)
            tuned[k] = exit_.with_prior(delta)
            values.append(TunedValue(k, "prior precision", delta, prior_range(exit_)))
    if not objective.caches:
        return tuned, values
    tuned, more_values = validation.tune(tuned, objective, choices)
    return tuned, values + more_values


def _maximize(exit_: CalibratedExit, weights: Tensor) -> float:
    """Return the δ of maximum evidence."""
    from scipy.optimize import minimize_scalar

    posterior = exit_.require_posterior()

    def loss(log_delta: float) -> float:
        return -float(posterior.with_prior(math.exp(log_delta)).log_marginal_likelihood(weights))

    bounds = tuple(map(math.log, prior_range(exit_)))
    result = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-5})
    return math.exp(result.x)
