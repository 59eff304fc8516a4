"""Prior variance and temperature of every exit on the paper's grid, exit by exit.

Greedy: exit k takes the point with the least validation NLL of what would be answered there, the ensemble of
itself with the earlier exits as they were chosen. For comparison with tuning by gradient.
Meronen et al. 2024.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from suffice.calibration.ensemble import Running, extend
from suffice.calibration.exits import CalibratedExit
from suffice.calibration.tuning.cache import Cache
from suffice.calibration.tuning.ranges import Found, warn_at_edges

TEMPERATURES = (0.3, 0.5, 0.7, 1.0, 1.3, 1.5, 1.7, 2.0, 2.5, 3.0)
PRIOR_VARIANCES = (0.5, 0.7, 1.0, 1.3, 1.5, 1.7, 2.0, 2.5, 3.0, 4.0)
"""1/δ, relative to the one that an exit comes with."""


def tune(
    exits: Sequence[CalibratedExit],
    caches: Sequence[Cache],
    labels: Tensor,
    weights: Sequence[float] | None,
    temperature: bool,
    product: bool = False,
) -> list[CalibratedExit]:
    """Exits with 1/δ (where the link asks the posterior) and, if asked, T at the best point of the grid.

    Args:
        exits: K exits; what is not tuned stays as it is.
        caches: the validation set at each exit.
        labels: (N,).
        weights: of the ensemble's members, or None for exits on their own.
        temperature: whether T is tuned.
        product: whether the members' logarithms are averaged, not their probabilities.

    Warns:
        UserWarning: for each value at the edge of the grid.
    """
    running, tuned, found = None, [], []
    for k, (exit_, cache) in enumerate(zip(exits, caches, strict=True)):
        weight = None if weights is None else weights[k]
        points = _points(exit_, temperature)
        _, chosen, running = min(_tried(points, cache, labels, running, weight, product), key=lambda tried: tried[0])
        tuned.append(chosen)
        found += _found(k, exit_, chosen, temperature)
    warn_at_edges(found)
    return tuned


def _points(exit_: CalibratedExit, temperature: bool) -> Iterator[CalibratedExit]:
    """The exit at every point of the grid; its offsets are built once for each variance."""
    own = exit_.prior_precision or 1.0
    priors = [exit_.with_prior(own / v) for v in PRIOR_VARIANCES] if exit_.uses_posterior else [exit_]
    for prior in priors:
        yield from [prior.with_temperature(T) for T in TEMPERATURES] if temperature else [prior]


def _tried(
    points: Iterator[CalibratedExit],
    cache: Cache,
    labels: Tensor,
    running: Running | None,
    weight: float | None,
    product: bool,
) -> Iterator[tuple[float, CalibratedExit, Running | None]]:
    """NLL of the answer at each point, and the ensemble's sums with it."""
    for point in points:
        with torch.no_grad():
            answer = point.member(cache.logits, cache.spectrum)
        extended = None if weight is None else extend(running, answer, weight, product)
        answer = answer if extended is None else extended.prediction()
        yield float(point.likelihood.nll(answer, labels).double().mean()), point, extended


def _found(k: int, before: CalibratedExit, chosen: CalibratedExit, temperature: bool) -> list[Found]:
    found = []
    if before.uses_posterior and before.prior_precision is not None and chosen.prior_precision is not None:
        own = before.prior_precision
        limits = PRIOR_VARIANCES[0] / own, PRIOR_VARIANCES[-1] / own
        found.append(Found(k, "prior variance", 1 / chosen.prior_precision, limits))
    if temperature:
        found.append(Found(k, "temperature", float(chosen.temperature), (TEMPERATURES[0], TEMPERATURES[-1])))
    return found
