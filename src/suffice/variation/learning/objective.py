"""Objective of a fit: rows and hyperparameters, the fit itself, the bounds of its estimates, and its quality."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from suffice.variation.features.distance import Distance
from suffice.variation.features.scaling import Scaling
from suffice.variation.learning import agreement, mlp
from suffice.variation.learning.fitted_mlp import FittedMLP
from suffice.variation.learning.rows import Rows, mean_label
from suffice.variation.learning.target import Target


@dataclass(frozen=True)
class Objective:
    """Rows and hyperparameters of a fit, which always starts from the same seed.

    Attributes:
        train: Rows to fit.
        stopping: Other rows, for early stopping and selection.
        unit: Mean training label, in which labels are measured.
        target: Spread to learn.
        hidden: Widths of the hidden layers.
        epochs: Maximum number of passes over the training rows.
        seed: Seed of the initial weights and of the order of rows.
        flags: Whether inputs are flagged as outside by the covariance of the features, at a cost at each prediction.
    """

    train: Rows
    stopping: Rows
    unit: float
    target: Target
    hidden: Sequence[int]
    epochs: int
    seed: int
    flags: bool = True

    def fit(self, layers: Sequence[int]) -> FittedMLP:
        """Fit a network to the features of the output and of the layers with the given positions."""
        columns, generator = self.train.columns(layers), torch.Generator().manual_seed(self.seed)
        features, stopping_features = self.train.features[:, columns], self.stopping.features[:, columns]
        scaling = Scaling.fit(features, self.train.output_width(layers))
        scaled, scaled_stopping = scaling.apply(features), scaling.apply(stopping_features)
        training = scaled.inputs, self.train.labels[:, 0] / self.unit
        validation = scaled_stopping.inputs, self.stopping.labels.mean(dim=1) / self.unit
        inputs = scaled.inputs
        weights = mlp.initial(inputs.shape[1], self.hidden, 1, inputs.device, generator)
        weights = mlp.train(weights, training, validation, mlp.qlike, self.epochs, generator)
        fitted = mlp.variance(mlp.forward(weights, inputs)) * self.unit
        return FittedMLP(
            self.target,
            scaling,
            tuple(weight.detach() for weight in weights),
            self.unit,
            estimate_bounds(fitted, self.train.labels, self.target),
            Distance.fit(scaled.scores, scaled_stopping.scores) if self.flags else Distance.isotropic(scaled.scores),
            self.train.passes,
        )

    def quality(self, estimate: Tensor) -> float:
        """Return the noise-corrected R² of an estimate (M,) of the stopping rows."""
        return r_squared(estimate, self.stopping, self.target)


def fit_rows(
    train: Rows, stopping: Rows, target: Target, hidden: Sequence[int], epochs: int, generator: torch.Generator | None
) -> FittedMLP:
    """Fit a network to all features of training rows, with early stopping on others; arguments as `fit_variation`.

    The covariance of the features is not fitted; `Distance.isotropic` flags inputs as outside.

    Raises:
        ValueError: For fewer than two training rows, or labels that are all zero.
    """
    unit = mean_label(train.labels, target)
    objective = Objective(train, stopping, unit, target, hidden, epochs, random_seed(generator), flags=False)
    return objective.fit(range(len(train.widths) - 1))


def random_seed(generator: torch.Generator | None) -> int:
    """Draw a random seed for a fit."""
    device = None if generator is None else generator.device
    return int(torch.randint(1 << 62, (), generator=generator, device=device))


def r_squared(estimate: Tensor, rows: Rows, target: Target) -> float:
    """Return the noise-corrected R² of an estimate (N,) of rows that are labeled twice."""
    spreads = rows.labels.double().pow(1 / target.power).unbind(dim=1)
    a, b = (target.unbiased(spread, rows.passes) for spread in spreads)
    return agreement.r_squared(estimate, a, b)


def estimate_bounds(fitted: Tensor, labels: Tensor, target: Target) -> tuple[float, float]:
    """Return the least and the greatest spread in the range both of fitted values (N,) and of labels (N, …)."""
    least, greatest = max(float(fitted.min()), float(labels.min())), min(float(fitted.max()), float(labels.max()))
    return least ** (1 / target.power), max(least, greatest) ** (1 / target.power)
