"""Prior precision and temperature of every exit, by gradient on cached validation features.

Minimises Σ_k NLL_k over log δ_k and log T_k, NLL_k that of what would be answered at exit k: the ensemble up
to k where there is one, so that all exits are tuned for each other. The joint samples are fixed, so the
objective is the same at every evaluation (common random numbers), and nothing is computed twice:
the network is not run again.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from suffice.calibration import ensemble
from suffice.calibration.exits import CalibratedExit

PRIOR_PRECISION = (1e-3, 1e5)
"""Range searched for δ."""
TEMPERATURE = (0.05, 20.0)
"""Range searched for T."""
_RANGES = {"prior precision": PRIOR_PRECISION, "temperature": TEMPERATURE}
_ROWS = 2048


@dataclass(frozen=True)
class Cache:
    """The validation set as one exit sees it: logits (N, C), and the spectrum of φ where a link needs it."""

    logits: Tensor
    spectrum: Tensor | None


def tune(
    exits: Sequence[CalibratedExit],
    caches: Sequence[Cache],
    labels: Tensor,
    weights: Sequence[float] | None,
    temperature: bool,
) -> list[CalibratedExit]:
    """Exits with δ (where the link asks the posterior) and, if asked, T at the minimum of the summed answered NLL.

    Args:
        exits: K exits; what is not tuned stays as it is.
        caches: the validation set at each exit.
        labels: (N,).
        weights: of the ensemble's members, or None for exits on their own.
        temperature: whether T is tuned.

    Warns:
        UserWarning: for each value that ends at the edge of its range.
    """
    from scipy.optimize import minimize

    problem = _Problem(exits, caches, labels, weights, temperature)
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
    problem.warn_at_edges(result.x)
    return problem.exits_at(torch.from_numpy(result.x), as_numbers=True)


@dataclass(frozen=True)
class _Problem:
    exits: Sequence[CalibratedExit]
    caches: Sequence[Cache]
    labels: Tensor
    weights: Sequence[float] | None
    temperature: bool

    @property
    def names(self) -> list[tuple[int, str]]:
        """What each coordinate is: the exit and "prior precision" or "temperature"."""
        names = []
        for k, exit_ in enumerate(self.exits):
            if exit_.asks_posterior:
                names.append((k, "prior precision"))
            if self.temperature:
                names.append((k, "temperature"))
        return names

    @property
    def bounds(self) -> list[tuple[float, float]]:
        return [(float(np.log(_RANGES[name][0])), float(np.log(_RANGES[name][1]))) for _, name in self.names]

    def start(self) -> np.ndarray:
        """The best of a few values common to all exits; δ no greater than where the objective goes flat."""
        is_prior = np.array([name == "prior precision" for _, name in self.names])
        scales = (0.5, 1.0, 2.0) if self.temperature else (1.0,)
        deltas = (0.1, 1.0, 10.0, 100.0) if is_prior.any() else (1.0,)
        starts = [np.log(np.where(is_prior, delta, scale)) for scale in scales for delta in deltas]
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
        total = 0.0
        for rows in torch.arange(len(self.labels)).split(_ROWS):
            loss = self._summed_nll(self.exits_at(x), rows) / len(self.labels)
            if backward:
                loss.backward()
            total += float(loss.detach())
        return total

    def value_and_gradient(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.from_numpy(x).requires_grad_()
        value = self.value(point, backward=True)
        assert point.grad is not None
        return value, point.grad.numpy()

    def _summed_nll(self, exits: Sequence[CalibratedExit], rows: Tensor) -> Tensor:
        labels = self.labels[rows, None]
        total = torch.zeros((), dtype=torch.float64, device=labels.device)
        running = None
        for k, (exit_, cache) in enumerate(zip(exits, self.caches, strict=True)):
            spectrum = None if cache.spectrum is None else cache.spectrum[rows]
            answer = exit_.member(cache.logits[rows], spectrum)
            if self.weights is not None:
                running = ensemble.extend(running, answer, self.weights[k])
                answer = running.prediction()
            total = total - answer.log_probs.gather(1, labels).double().sum()
        return total

    def warn_at_edges(self, x: np.ndarray) -> None:
        """One warning for each edge that something ended at, naming the exits."""
        ended: dict[tuple[str, bool], list[int]] = {}
        for (k, name), value, limits in zip(self.names, x, self.bounds, strict=True):
            for limit in limits:
                if abs(value - limit) < 1e-3:
                    ended.setdefault((name, limit == limits[1]), []).append(k)
        for (name, upper), exits in ended.items():
            limit = _RANGES[name][upper]
            meaning = "; the posterior adds nothing there" if name == "prior precision" and upper else ""
            where = f"exit {', '.join(map(str, exits))}"
            warnings.warn(f"the {name} of {where} ended at the edge of its range, {limit:g}{meaning}", stacklevel=4)
