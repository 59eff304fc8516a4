"""Prior precision and temperature of every exit, by gradient on cached validation features.

Minimises Σ_k NLL_k over log δ_k and log T_k, NLL_k that of what would be answered at exit k: the ensemble up
to k where there is one, so that all exits are tuned for each other; if asked, over the logarithms of the odds
w_k / Σ_{j<k} w_j of the ensemble's weights too. The joint samples are fixed, so the objective is the same at every
evaluation (common random numbers), and nothing is computed twice: the network is not run again.

A few validation examples that are all answered rightly would send T to 0 and every later error's NLL to the sky. So
log T has a normal prior about 0, which counts as much as a few examples and is not noticed by thousands.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product as every_pair

import numpy as np
import torch
from torch import Tensor

from suffice.calibration import ensemble
from suffice.calibration.ensemble import Weight
from suffice.calibration.exits import CalibratedExit
from suffice.calibration.tuning.cache import Cache
from suffice.calibration.tuning.ranges import ODDS, Found, prior_range, warn_at_edges

_TERMS = 1 << 23
"""Exponentials held at once, over all exits: some 200 MB in float32 with all that a gradient needs of them."""

SPREAD = 0.5
"""Standard deviation of the normal prior of log T, about 0."""

_GRADIENT = 1e-6
"""Where the search ends: far enough to reach the edge where a posterior only harms.

A gain ends it only below the square of this, which is what a step as long as that gradient gains: on a plateau, as
there is for great δ, whole steps gain next to nothing at first.
"""

_TRIES = 6
"""Step lengths that are tried along a direction: more only measure the rounding of the loss near its minimum."""

_CHANGES = {
    "prior precision": CalibratedExit.with_prior,
    "temperature": CalibratedExit.with_temperature,
    "weight": CalibratedExit.with_weight,
}


def tune(
    exits: Sequence[CalibratedExit],
    caches: Sequence[Cache],
    labels: Tensor,
    weights: Sequence[float] | None,
    temperature: bool,
    prior: bool = True,
    product: bool = False,
    tuned_weights: bool = False,
) -> list[CalibratedExit]:
    """Exits with δ, T and, if asked, w at the minimum of the summed answered NLL and the prior of T.

    Args:
        exits: K exits; what is not tuned stays as it is.
        caches: the validation set at each exit.
        labels: (N,).
        weights: of the ensemble's members, or None for exits on their own.
        temperature: whether T is tuned.
        prior: whether δ is tuned where the link asks the posterior.
        product: whether the members' logarithms are averaged, not their probabilities.
        tuned_weights: whether `weights` are only where the search begins.

    Warns:
        UserWarning: for each value that ends at the edge of its range.
    """
    from scipy.optimize import minimize

    problem = _Problem(exits, caches, labels, weights, temperature, prior, product, tuned_weights)
    if not problem.bounds:
        return list(exits)
    result = minimize(
        problem.value_and_gradient,
        problem.start(),
        jac=True,
        method="L-BFGS-B",
        bounds=problem.bounds,
        options={"gtol": _GRADIENT, "ftol": _GRADIENT**2, "maxls": _TRIES},
    )
    pairs = zip(problem.coordinates, np.exp(result.x), strict=True)
    warn_at_edges([Found(one.exit, one.name, float(value), one.limits) for one, value in pairs])
    return problem.exits_at(torch.from_numpy(result.x), as_numbers=True)


@dataclass(frozen=True)
class Coordinate:
    """One number that is tuned, by its logarithm.

    Attributes:
        exit: its number.
        name: "prior precision", "temperature" or "weight", which stands for w_k / Σ_{j<k} w_j.
        limits: the least and the greatest value searched.
        own: the value that it comes with.
    """

    exit: int
    name: str
    limits: tuple[float, float]
    own: float


@dataclass(frozen=True)
class _Problem:
    exits: Sequence[CalibratedExit]
    caches: Sequence[Cache]
    labels: Tensor
    weights: Sequence[float] | None
    temperature: bool
    prior: bool = True
    product: bool = False
    tuned_weights: bool = False

    @property
    def coordinates(self) -> list[Coordinate]:
        """What is tuned, exit by exit."""
        found = []
        for k, exit_ in enumerate(self.exits):
            if self.prior and exit_.uses_posterior:
                own = float(exit_.require_posterior().prior_precision)
                found.append(Coordinate(k, "prior precision", prior_range(exit_), own))
            if self.temperature:
                found.append(Coordinate(k, "temperature", exit_.likelihood.temperatures, 1.0))
            if self.tuned_weights and k > 0:
                assert self.weights is not None
                found.append(Coordinate(k, "weight", ODDS, self.weights[k] / sum(self.weights[:k])))
        return found

    @property
    def bounds(self) -> list[tuple[float, float]]:
        return [(math.log(low), math.log(high)) for low, high in (one.limits for one in self.coordinates)]

    @property
    def rows(self) -> int:
        """Examples taken at once."""
        pairs = zip(self.exits, self.caches, strict=True)
        return max(1, _TERMS // sum(exit_.terms(cache.logits.shape[1]) for exit_, cache in pairs))

    def start(self) -> np.ndarray:
        """The best of a few multiples common to all exits; δ no greater than where the objective goes flat."""
        coordinates = self.coordinates
        names = {one.name for one in coordinates}
        temperatures = (0.5, 1.0, 2.0) if "temperature" in names else (1.0,)
        deltas = (0.1, 1.0, 10.0, 100.0) if "prior precision" in names else (1.0,)
        starts = []
        for temperature, delta in every_pair(temperatures, deltas):
            multiples = {"temperature": temperature, "prior precision": delta, "weight": 1.0}
            starts.append(np.log([one.own * multiples[one.name] for one in coordinates]))
        with torch.no_grad():
            values = [self.value(torch.from_numpy(start)) for start in starts]
        return starts[int(np.argmin(values))]

    def exits_at(self, x: Tensor, as_numbers: bool = False) -> list[CalibratedExit]:
        exits, weights = list(self.exits), list[Weight]((self.weights or ())[:1])
        if self.tuned_weights:
            exits[0] = exits[0].with_weight(weights[0])
        for one, log_value in zip(self.coordinates, x, strict=True):
            value = float(log_value.exp()) if as_numbers else log_value.exp()
            if one.name == "weight":
                value = value * sum(weights)
                weights.append(value)
            exits[one.exit] = _CHANGES[one.name](exits[one.exit], value)
        return exits

    def value(self, x: Tensor, backward: bool = False) -> float:
        """Mean answered NLL summed over exits, and the prior; with `backward`, the gradient is added to x.grad."""
        total, exits = 0.0, self.exits_at(x)
        for rows in torch.arange(len(self.labels)).split(self.rows):
            loss = self._summed_nll(exits, rows) / len(self.labels)
            if backward:
                loss.backward(retain_graph=True)  # the offsets are built once and belong to all chunks
            total += float(loss.detach())
        return total + self._prior_of_temperatures(x, backward)

    def _prior_of_temperatures(self, x: Tensor, backward: bool) -> float:
        """Its negative logarithm, but for a constant, per example; with `backward`, its gradient is added to x.grad."""
        of = [i for i, one in enumerate(self.coordinates) if one.name == "temperature"]
        loss = x[of].square().sum() / (2 * SPREAD**2 * len(self.labels))
        if backward:
            loss.backward()
        return float(loss.detach())

    def value_and_gradient(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.from_numpy(x).requires_grad_()
        value = self.value(point, backward=True)
        assert point.grad is not None
        return value, point.grad.numpy()

    def _summed_nll(self, exits: Sequence[CalibratedExit], rows: Tensor) -> Tensor:
        labels = self.labels[rows]
        total = torch.zeros((), dtype=torch.float64, device=labels.device)
        running = None
        for k, (exit_, cache) in enumerate(zip(exits, self.caches, strict=True)):
            spectrum = None if cache.spectrum is None else cache.spectrum[rows]
            answer = exit_.member(cache.logits[rows], spectrum)
            if self.weights is not None:
                weight = self.weights[k] if exit_.weight is None else exit_.weight
                running = ensemble.extend(running, answer, weight, self.product)
                answer = running.prediction()
            total = total + exit_.likelihood.nll(answer, labels).double().sum()
        return total
