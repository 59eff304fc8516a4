"""Prior precision of every exit by its marginal likelihood, which needs no validation set.

With the trained weights W and Laplace's approximation there, an exit's evidence as a function of its δ is

    log p(data | δ) ≈ constant − ½(δ Σ_c γ_c‖W_c‖² + log det Π(δ) − log det(δΓ ⊗ I))

a sum over eigenvalues. It says which prior the weights would have come from, not which answers would be best.
MacKay 1992; Immer et al. 2021 (of networks).
"""

import math
from collections.abc import Sequence

from torch import Tensor

from suffice.calibration.exits import CalibratedExit
from suffice.calibration.tuning.ranges import Found, prior_range, warn_at_edges


def tune(exits: Sequence[CalibratedExit], weights: Sequence[Tensor]) -> list[CalibratedExit]:
    """Exits with δ where their evidence is greatest; those without a posterior as they are.

    Args:
        exits: K exits.
        weights: W (C, D) of each classifier, as `exits.weights_with_bias` gives it: the rows with a posterior.

    Warns:
        UserWarning: for each δ that ends at the edge of its range.
    """
    tuned = [_at_most_evidence(exit_, own) for exit_, own in zip(exits, weights, strict=True)]
    found = [
        Found(k, "prior precision", exit_.prior_precision, prior_range(exits[k]))
        for k, exit_ in enumerate(tuned)
        if exit_.prior_precision is not None
    ]
    warn_at_edges(found)
    return tuned


def _at_most_evidence(exit_: CalibratedExit, weights: Tensor) -> CalibratedExit:
    from scipy.optimize import minimize_scalar

    posterior = exit_.posterior
    if posterior is None:
        return exit_

    def loss(log_delta: float) -> float:
        return -float(posterior.with_prior(math.exp(log_delta)).log_marginal_likelihood(weights))

    bounds = tuple(map(math.log, prior_range(exit_)))
    result = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-5})
    return exit_.with_prior(math.exp(result.x))
