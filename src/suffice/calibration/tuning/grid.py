"""Prior variance and temperature of every exit on the paper's grid, exit by exit.

The search is greedy: exit k takes the point of minimum validation NLL of its prediction, the ensemble of itself with
the earlier exits at their chosen points. For comparison with tuning by gradient.
Meronen et al. 2024.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from suffice.calibration.choices import Choices
from suffice.calibration.ensemble import Running, extend
from suffice.calibration.exits import CalibratedExit
from suffice.calibration.tuning.objective import Cache, Objective
from suffice.calibration.tuning.ranges import TunedValue
from suffice.utils import threads

TEMPERATURES = (0.3, 0.5, 0.7, 1.0, 1.3, 1.5, 1.7, 2.0, 2.5, 3.0)
PRIOR_VARIANCES = (0.5, 0.7, 1.0, 1.3, 1.5, 1.7, 2.0, 2.5, 3.0, 4.0)
"""Prior variances 1/δ relative to the initial one of an exit."""


def tune(
    exits: Sequence[CalibratedExit], objective: Objective, choices: Choices
) -> tuple[list[CalibratedExit], list[TunedValue]]:
    """Set 1/δ (if the link uses the posterior) and, if chosen, T of every exit to the best point of the grid.

    Args:
        exits: K exits.
        objective: Validation data and the ensemble.
        choices: Whether temperatures are tuned.

    Returns:
        The tuned exits and the tuned values.
    """
    running, tuned, values = None, list[CalibratedExit](), list[TunedValue]()
    with threads.one_thread_if_small(objective.largest_operation(exits)):
        for k, (exit_, cache) in enumerate(zip(exits, objective.caches, strict=True)):
            candidates = _evaluate(_candidates(exit_, choices.temperature), k, cache, objective, running)
            best = min(candidates, key=lambda candidate: candidate.nll)
            running = best.running
            tuned.append(best.exit)
            values += _tuned_values(k, exit_, best.exit, choices.temperature)
    return tuned, values


@dataclass(frozen=True)
class _Candidate:
    """An exit at one point of the grid, its NLL and the ensemble that includes it."""

    exit: CalibratedExit
    nll: float
    running: Running | None


def _candidates(exit_: CalibratedExit, temperature: bool) -> Iterator[CalibratedExit]:
    """Yield the exit at every point of the grid; its offsets are computed once for each prior variance."""
    initial = exit_.prior_precision or 1.0
    priors = [exit_.with_prior(initial / v) for v in PRIOR_VARIANCES] if exit_.uses_posterior else [exit_]
    for prior in priors:
        yield from [prior.with_temperature(T) for T in TEMPERATURES] if temperature else [prior]


def _evaluate(
    candidates: Iterator[CalibratedExit], k: int, cache: Cache, objective: Objective, running: Running | None
) -> Iterator[_Candidate]:
    """Yield each candidate for exit k with the NLL of its prediction."""
    for candidate in candidates:
        with torch.no_grad():
            prediction = candidate.member(cache.logits, cache.spectrum)
        extended = None
        if objective.weights is not None:
            extended = extend(running, prediction, objective.weights[k], objective.product)
            prediction = extended.prediction()
        nll: Tensor = candidate.likelihood.nll(prediction, objective.targets).double().mean()
        yield _Candidate(candidate, float(nll), extended)


def _tuned_values(k: int, before: CalibratedExit, chosen: CalibratedExit, temperature: bool) -> list[TunedValue]:
    values = []
    if before.uses_posterior and before.prior_precision is not None and chosen.prior_precision is not None:
        initial = before.prior_precision
        limits = PRIOR_VARIANCES[0] / initial, PRIOR_VARIANCES[-1] / initial
        values.append(TunedValue(k, "prior variance", 1 / chosen.prior_precision, limits))
    if temperature:
        limits = TEMPERATURES[0], TEMPERATURES[-1]
        values.append(TunedValue(k, "temperature", float(chosen.temperature), limits))
    return values
