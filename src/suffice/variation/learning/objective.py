"""A variation to be learned from rows: the small network, what its answers are bounded by, and how good it is."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from suffice.variation.features.scaling import Scaled, Scaling
from suffice.variation.learning import agreement, mlp, rows
from suffice.variation.learning.fit import Fit
from suffice.variation.learning.rows import Rows
from suffice.variation.teachers import spreads

_FAR = 2.0
"""How many times farther than any known row an input has to be to be called outside."""


@dataclass(frozen=True)
class Problem:
    """Rows to fit and to stop on, labels in units of `unit`, and how to fit: always from the same seed."""

    seen: Rows
    unseen: Rows
    unit: float
    target: str
    hidden: Sequence[int]
    epochs: int
    seed: int

    def fit(self, layers: Sequence[int]) -> Fit:
        """The network that sees the output and these layers."""
        columns, generator = self.seen.columns(layers), torch.Generator().manual_seed(self.seed)
        features, unseen = self.seen.features[:, columns], self.unseen.features[:, columns]
        scaling = Scaling.fit(features, self.seen.widths[0])
        known, new = scaling.apply(features), scaling.apply(unseen)
        inputs = known.inputs
        labels, unseen_labels = self.seen.labels[:, 0] / self.unit, self.unseen.labels.mean(dim=1) / self.unit
        weights = mlp.initial(inputs.shape[1], self.hidden, 1, inputs.device, generator)
        validation = new.inputs, unseen_labels
        weights = mlp.train(weights, (inputs, labels), validation, mlp.qlike, self.epochs, generator)
        fitted = mlp.variance(mlp.forward(weights, inputs)) * self.unit
        bounds = bounds_of(fitted, self.seen.labels, self.target)
        kept = tuple(weight.detach() for weight in weights)
        return Fit(self.target, scaling, kept, self.unit, bounds, limit_of(known, new), self.seen.passes)

    def quality(self, estimate: Tensor) -> float:
        """Noise-corrected R² of an estimate (M,) of the rows to stop on."""
        return r_squared(estimate, self.unseen, self.target)


def fit_rows(
    seen: Rows, stopping: Rows, target: str, hidden: Sequence[int], epochs: int, generator: torch.Generator | None
) -> Fit:
    """The small network that sees all features of training rows, stopped on others; arguments as `fit_variation`.

    Raises:
        ValueError: for fewer than two training rows, or labels that are all zero.
    """
    unit = rows.mean_label(seen.labels, target)
    problem = Problem(seen, stopping, unit, target, hidden, epochs, drawn_seed(generator))
    return problem.fit(range(len(seen.widths) - 1))


def drawn_seed(generator: torch.Generator | None) -> int:
    """Of a fit, drawn."""
    device = None if generator is None else generator.device
    return int(torch.randint(1 << 62, (), generator=generator, device=device))


def r_squared(estimate: Tensor, judging: Rows, target: str) -> float:
    """Noise-corrected R² of an estimate (N,) of rows labelled twice."""
    a, b = judging.labels.double().pow(1 / spreads.power(target)).unbind(dim=1)
    if spreads.power(target) == 2.0:
        a, b = (agreement.unbiased(part, judging.passes) for part in (a, b))
    return agreement.r_squared(estimate, a, b)


def bounds_of(fitted: Tensor, labels: Tensor, target: str) -> tuple[float, float]:
    """Least and greatest answer within the range both of fitted values and of labels (N, …)."""
    least, greatest = max(float(fitted.min()), float(labels.min())), min(float(fitted.max()), float(labels.max()))
    power = spreads.power(target)
    return least ** (1 / power), max(least, greatest) ** (1 / power)


def limit_of(*known: Scaled) -> float:
    """The distance beyond which an input is outside, from rows like those of fitting."""
    return _FAR * max(float(rows.distance.max()) for rows in known)
