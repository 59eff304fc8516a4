"""Prior precision and temperature of every exit, by gradient on cached validation features.

Minimises Σ_k NLL_k over log δ_k and log T_k, NLL_k that of what would be answered at exit k: the ensemble up
to k where there is one, so that all exits are tuned for each other. The joint samples are fixed, so the
objective is the same at every evaluation (common random numbers), and nothing is computed twice:
the network is not run again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from suffice.calibration import ensemble
from suffice.calibration.exits import CalibratedExit
from suffice.calibration.tuning.cache import Cache
from suffice.calibration.tuning.ranges import Found, prior_range, warn_at_edges

_TERMS = 1 << 23
"""Exponentials held at once, over all exits: some 200 MB in float32 with all that a gradient needs of them."""


def tune(
    exits: Sequence[CalibratedExit],
    caches: Sequence[Cache],
    labels: Tensor,
    weights: Sequence[float] | None,
    temperature: bool,
    prior: bool = True,
    product: bool = False,
) -> list[CalibratedExit]:
    """Exits with δ and T at the minimum of the summed answered NLL.

    Args:
        exits: K exits; what is not tuned stays as it is.
        caches: the validation set at each exit.
        labels: (N,).
        weights: of the ensemble's members, or None for exits on their own.
        temperature: whether T is tuned.
        prior: whether δ is tuned where the link asks the posterior.
        product: whether the members' logarithms are averaged, not their probabilities.

    Warns:
        UserWarning: for each value that ends at the edge of its range.
    """
    from scipy.optimize import minimize

    problem = _Problem(exits, caches, labels, weights, temperature, prior, product)
    if not problem.bounds:
        return list(exits)
    result = minimize(
        problem.value_and_gradient,
        problem.start(),
        jac=True,
        method="L-BFGS-B",
        bounds=problem.bounds,
        options={"gtol": 1e-6},  # far enough to reach the edge where a posterior only harms
    )
    tuples = zip(problem.names, problem.ranges, np.exp(result.x), strict=True)
    warn_at_edges([Found(k, name, float(value), limits) for (k, name), limits, value in tuples])
    return problem.exits_at(torch.from_numpy(result.x), as_numbers=True)


@dataclass(frozen=True)
class _Problem:
    exits: Sequence[CalibratedExit]
    caches: Sequence[Cache]
    labels: Tensor
    weights: Sequence[float] | None
    temperature: bool
    prior: bool = True
    product: bool = False

    @property
    def names(self) -> list[tuple[int, str]]:
        """What each coordinate is: the exit and "prior precision" or "temperature"."""
        names = []
        for k, exit_ in enumerate(self.exits):
            if self.prior and exit_.asks_posterior:
                names.append((k, "prior precision"))
            if self.temperature:
                names.append((k, "temperature"))
        return names

    @property
    def ranges(self) -> list[tuple[float, float]]:
        """Least and greatest value of each coordinate."""
        return [
            prior_range(self.exits[k]) if name == "prior precision" else self.exits[k].likelihood.temperatures
            for k, name in self.names
        ]

    @property
    def bounds(self) -> list[tuple[float, float]]:
        return [(float(np.log(low)), float(np.log(high))) for low, high in self.ranges]

    @property
    def rows(self) -> int:
        """Examples taken at once."""
        pairs = zip(self.exits, self.caches, strict=True)
        return max(1, _TERMS // sum(exit_.terms(cache.logits.shape[1]) for exit_, cache in pairs))

    def start(self) -> np.ndarray:
        """The best of a few values common to all exits; δ no greater than where the objective goes flat."""
        own = np.array([self.exits[k].prior_precision if name == "prior precision" else 0 for k, name in self.names])
        scales = (0.5, 1.0, 2.0) if self.temperature else (1.0,)
        deltas = (0.1, 1.0, 10.0, 100.0) if own.any() else (1.0,)
        starts = [np.log(np.where(own > 0, delta * own, scale)) for scale in scales for delta in deltas]
        with torch.no_grad():
            values = [self.value(torch.from_numpy(start)) for start in starts]
        return starts[int(np.argmin(values))]

    def exits_at(self, x: Tensor, as_numbers: bool = False) -> list[CalibratedExit]:
        exits = list(self.exits)
        for (k, name), log_value in zip(self.names, x, strict=True):
            value = float(log_value.exp()) if as_numbers else log_value.exp()
            change = exits[k].with_prior if name == "prior precision" else exits[k].with_temperature
            exits[k] = change(value)
        return exits

    def value(self, x: Tensor, backward: bool = False) -> float:
        """Mean answered NLL summed over exits; with `backward`, its gradient is added to x.grad."""
        total, exits = 0.0, self.exits_at(x)
        for rows in torch.arange(len(self.labels)).split(self.rows):
            loss = self._summed_nll(exits, rows) / len(self.labels)
            if backward:
                loss.backward(retain_graph=True)  # the offsets are built once and belong to all chunks
            total += float(loss.detach())
        return total

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
                running = ensemble.extend(running, answer, self.weights[k], self.product)
                answer = running.prediction()
            total = total + exit_.likelihood.nll(answer, labels).double().sum()
        return total
