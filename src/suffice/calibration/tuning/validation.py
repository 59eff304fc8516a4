"""Prior precision and temperature of every exit, by gradient on cached validation features.

Minimizes Σ_k NLL_k over log δ_k and log T_k, where NLL_k is that of the prediction at exit k: with an ensemble, the
ensemble up to k, so that all exits are tuned for each other. If chosen, the logarithms of the odds w_k / Σ_{j<k} w_j of
the ensemble's weights are tuned as well. The joint samples are fixed, so the objective is deterministic (common random
numbers), and the network does not run again.

With few validation examples, all predicted correctly, the NLL alone would drive T to 0, and every later error would
have an enormous NLL. So log T has a normal prior about the logarithm of its unit, which is 1 for outputs of usual size;
it weighs as much as a few examples and is negligible against thousands.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product as every_choice
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from suffice.calibration.choices import Choices
from suffice.calibration.ensemble import Weight
from suffice.calibration.exits import CalibratedExit
from suffice.calibration.tuning.objective import Objective
from suffice.calibration.tuning.ranges import ODDS, TunedValue, prior_range, temperature_range
from suffice.utils import threads

if TYPE_CHECKING:
    from scipy.optimize import OptimizeResult

SPREAD = 0.5
"""Standard deviation of the normal prior of log T."""

_GRADIENT = 1e-6
"""Gradient norm at which the search ends: small enough to reach the edge where a posterior only adds error.

A gain below the square of this ends it too, which is the gain of a step as long as that gradient: on a plateau, for
large δ, whole steps gain almost nothing at first.
"""

_TRIES = 6
"""Maximum number of step lengths along a direction; more only measure rounding errors near the minimum."""

_FEW = 2000
"""Number of examples on which minima are looked for; the search on all examples starts at the best of them."""

_SETTERS = {
    "prior precision": CalibratedExit.with_prior,
    "temperature": CalibratedExit.with_temperature,
    "weight": CalibratedExit.with_weight,
}


def tune(
    exits: Sequence[CalibratedExit], objective: Objective, choices: Choices, near: Sequence[TunedValue] = ()
) -> tuple[list[CalibratedExit], list[TunedValue]]:
    """Minimize the summed NLL of the predictions at all exits, and the prior of T, over the chosen values.

    These are δ of every exit with a link that uses its posterior (unless tuned by evidence), T if
    `choices.temperature`, and the odds of the ensemble's weights if `choices.ensemble_weights` is "tuned".

    Args:
        exits: K exits.
        objective: Validation data and the ensemble; tuned weights start at its weights.
        choices: Which values are tuned.
        near: Values of all numbers to be tuned, and perhaps of others, near a minimum where the search starts; by
            default it looks for the best minimum.

    Returns:
        The tuned exits and the tuned values.
    """
    problem = _Problem(exits, objective, choices)
    if not problem.bounds:
        return list(exits), []
    with threads.one_thread_if_small(objective.largest_operation(exits)):
        return _minimize(problem, problem.point(near) if near else _start(problem))


def _start(problem: "_Problem") -> np.ndarray:
    """Return the best of the minima that are found on few examples from several points."""
    few = problem.on_few()
    return problem.crossed([_descend(few, start, 10 * _GRADIENT).x for start in few.starts()])


def _minimize(problem: "_Problem", start: np.ndarray) -> tuple[list[CalibratedExit], list[TunedValue]]:
    result = _descend(problem, start)
    values = [
        TunedValue(c.exit, c.name, float(value), c.limits, abs(float(slope)))
        for c, value, slope in zip(problem.coordinates, np.exp(result.x), result.jac, strict=True)
    ]
    return problem.exits_at(torch.from_numpy(result.x), as_numbers=True), values


def _descend(problem: "_Problem", start: np.ndarray, gradient: float = _GRADIENT) -> "OptimizeResult":
    """Search for the minimum that a start leads to, until the norm of the gradient is below `gradient`."""
    from scipy.optimize import minimize

    options = {"gtol": gradient, "ftol": gradient**2, "maxls": _TRIES}
    return minimize(
        problem.value_and_gradient, start, jac=True, method="L-BFGS-B", bounds=problem.bounds, options=options
    )


@dataclass(frozen=True)
class Coordinate:
    """One tuned number, represented by its logarithm.

    Attributes:
        exit: Number of the exit.
        name: Name of the value: "prior precision", "temperature" or "weight", the odds w_k / Σ_{j<k} w_j.
        limits: Smallest and largest value in the search.
        initial: Value before tuning; of T, the unit of the outputs.
        factor: Factor of another plausible initial value: of δ, if the weights and not the features have that unit.
    """

    exit: int
    name: str
    limits: tuple[float, float]
    initial: float
    factor: float = 1.0


@dataclass(frozen=True)
class _Problem:
    """Function of the logarithms of all tuned numbers, and its gradient."""

    exits: Sequence[CalibratedExit]
    objective: Objective
    choices: Choices

    @cached_property
    def coordinates(self) -> list[Coordinate]:
        """Tuned numbers, exit by exit."""
        coordinates = []
        weights = self.objective.weights
        for k, exit_ in enumerate(self.exits):
            unit = exit_.likelihood.output_unit(self.objective.caches[k].logits)
            if self.choices.tunes_prior and exit_.uses_posterior:
                initial = float(exit_.require_posterior().prior_precision)
                coordinates.append(Coordinate(k, "prior precision", prior_range(exit_, unit), initial, unit**-2))
            if self.choices.temperature:
                coordinates.append(Coordinate(k, "temperature", temperature_range(exit_, unit), unit))
            if self.choices.tunes_weights and k > 0:
                assert weights is not None
                coordinates.append(Coordinate(k, "weight", ODDS, weights[k] / sum(weights[:k])))
        return coordinates

    @property
    def bounds(self) -> list[tuple[float, float]]:
        """Search ranges of the logarithms."""
        return [(math.log(low), math.log(high)) for low, high in (coordinate.limits for coordinate in self.coordinates)]

    def point(self, values: Sequence[TunedValue]) -> np.ndarray:
        """Return the logarithms of these values."""
        by_name = {(value.exit, value.name): value.value for value in values}
        return np.log([by_name[coordinate.exit, coordinate.name] for coordinate in self.coordinates])

    def on_few(self) -> "_Problem":
        """Return the problem on at most `_FEW` of the examples, evenly spaced, on which minima are looked for."""
        return replace(self, objective=self.objective.every(-(-len(self.objective.targets) // _FEW)))

    def starts(self) -> list[np.ndarray]:
        """Return the best point of a grid, and the same point with every δ at its lower and at its upper limit.

        The objective may have a minimum at a finite δ and another where the posterior adds nothing.
        """
        best = self._best_of_grid()
        is_prior = [coordinate.name == "prior precision" for coordinate in self.coordinates]
        ends = [np.where(is_prior, limits, best) for limits in np.transpose(self.bounds)]
        return [best, *ends] if any(is_prior) else [best]

    def crossed(self, points: Sequence[np.ndarray]) -> np.ndarray:
        """Return the best point, with the values of each exit from another point where that lowers the objective."""
        best = min(points, key=self._value_at)
        for k in range(len(self.exits)):
            of_exit = [coordinate.exit == k for coordinate in self.coordinates]
            best = min([best, *(np.where(of_exit, point, best) for point in points)], key=self._value_at)
        return best

    def _best_of_grid(self) -> np.ndarray:
        """Return the best of a few multiples common to all exits, most with δ below the plateau of the objective."""
        coordinates = self.coordinates
        names = {coordinate.name for coordinate in coordinates}
        temperatures = (0.5, 1.0, 2.0) if "temperature" in names else (1.0,)
        deltas = (0.1, 1.0, 10.0, 100.0) if "prior precision" in names else (1.0,)
        powers = (0, 1) if any(coordinate.factor != 1 for coordinate in coordinates) else (0,)
        starts = []
        for temperature, delta, power in every_choice(temperatures, deltas, powers):
            multiples = {"temperature": temperature, "prior precision": delta, "weight": 1.0}
            starts.append(np.log([c.initial * c.factor**power * multiples[c.name] for c in coordinates]))
        return min(starts, key=self._value_at)

    def exits_at(self, x: Tensor, as_numbers: bool = False) -> list[CalibratedExit]:
        """Return the exits at the logarithms x, with tensors that have gradients or with Python numbers."""
        exits, weights = list(self.exits), list[Weight]((self.objective.weights or ())[:1])
        if self.choices.tunes_weights:
            exits[0] = exits[0].with_weight(weights[0])
        for coordinate, log_value in zip(self.coordinates, x, strict=True):
            value = float(log_value.exp()) if as_numbers else log_value.exp()
            if coordinate.name == "weight":
                value = value * sum(weights)
                weights.append(value)
            exits[coordinate.exit] = _SETTERS[coordinate.name](exits[coordinate.exit], value)
        return exits

    @torch.no_grad()
    def _value_at(self, x: np.ndarray) -> float:
        return self.value(torch.from_numpy(x))

    def value(self, x: Tensor, backward: bool = False) -> float:
        """Return the mean NLL summed over exits plus the prior; with `backward`, add the gradient to x.grad."""
        total, exits = 0.0, self.exits_at(x)
        for rows in self.objective.chunks(exits):
            loss = self.objective.nll(exits, rows).sum() / len(self.objective.targets)
            if backward:
                loss.backward(retain_graph=True)  # all chunks share the graph of the offsets
            total += float(loss.detach())
        return total + self._prior_of_temperatures(x, backward)

    def _prior_of_temperatures(self, x: Tensor, backward: bool) -> float:
        """Return the negative log-prior of T per example, up to a constant; `backward` adds its gradient to x.grad."""
        indices = [i for i, coordinate in enumerate(self.coordinates) if coordinate.name == "temperature"]
        units = x.new_tensor([math.log(self.coordinates[i].initial) for i in indices])
        loss = (x[indices] - units).square().sum() / (2 * SPREAD**2 * len(self.objective.targets))
        if backward:
            loss.backward()
        return float(loss.detach())

    def value_and_gradient(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the value and the gradient in x."""
        point = torch.from_numpy(x).requires_grad_()
        value = self.value(point, backward=True)
        assert point.grad is not None
        return value, point.grad.numpy()
