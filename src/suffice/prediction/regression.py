"""Gaussian predictions of numbers with their uncertainty.

For independent outputs c in the units of the targets,

    y_c ~ N(mean_c, epistemic variance_c + noise variance_c)

where the epistemic variance is the disagreement of the weights and of the members of an ensemble, and shrinks with
data; the noise variance is the scatter of the targets about their mean.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from suffice import metrics
from suffice.prediction.interface import Kind, Loss, Streak


@dataclass(frozen=True)
class Regression:
    """Gaussian predictions of a batch; every field is batch first. The counterpart of `Prediction`.

    Attributes:
        mean: Mean (N, C) of the targets, in their units.
        epistemic_variance: Variance (N, C) of the mean.
        noise_variance: Variance (N, C) of a target about its mean.
        members: Predictions of the single exits if this one is an ensemble, else empty.

    Example:
        >>> import torch
        >>> from suffice import Regression
        >>> one = torch.ones(1, 1)
        >>> prediction = Regression(mean=0 * one, epistemic_variance=3 * one, noise_variance=one)
        >>> low, high = prediction.interval(0.95)
        >>> prediction.std.item(), round(high.item(), 2)
        (2.0, 3.92)
    """

    kind: ClassVar[Kind] = "regression"
    score_names: ClassVar[tuple[str, ...]] = ("epistemic", "variance")
    measure_names: ClassVar[tuple[str, ...]] = ("rmse", "nll", "crps", "coverage_95")

    mean: Tensor
    epistemic_variance: Tensor
    noise_variance: Tensor
    members: "tuple[Regression, ...]" = ()

    def __repr__(self) -> str:
        """Describe the batch in one line; the fields hold the numbers."""
        ensemble = f", ensemble of {len(self.members)}" if self.members else ""
        return f"Regression({len(self):,} examples, {self.mean.shape[-1]:,} outputs{ensemble})"

    @property
    def variance(self) -> Tensor:
        """Total variance (N, C) of a target."""
        return self.epistemic_variance + self.noise_variance

    @property
    def std(self) -> Tensor:
        """Standard deviation (N, C) of a target, in the units of the targets."""
        return self.variance.sqrt()

    @property
    def outputs(self) -> Tensor:
        """Mean, log epistemic variance and log total variance of every output, (N, 3C)."""
        return torch.cat([self.mean, self.epistemic_variance.log(), self.variance.log()], dim=1)

    @property
    def default_score(self) -> Tensor:
        """Negative mean (N,) over the outputs of the log-variance.

        It ranks as the negative entropy of the Gaussian, whatever the units of the outputs; of a sum of variances the
        output in the smallest unit would be the largest part.
        """
        return -self.variance.log().mean(dim=-1)

    @property
    def epistemic_score(self) -> Tensor:
        """Negative mean (N,) over the outputs of the log epistemic variance."""
        return -self.epistemic_variance.log().mean(dim=-1)

    @property
    def chance_correct(self) -> Tensor:
        """NaN (N,), float64: a regression is neither correct nor wrong."""
        return torch.full((len(self),), torch.nan, dtype=torch.float64, device=self.mean.device)

    @property
    def soundness(self) -> Tensor:
        """Value (N,) that is finite where all fields are, so that one check covers them."""
        return (self.mean.abs() + self.variance).amax(dim=-1)

    def losses(self, labels: Tensor, loss: Loss) -> Tensor:
        """Raise a ValueError: a regression has neither an error rate nor a Brier score."""
        raise ValueError(f"expected a prediction of classes for the loss {loss!r}, got a regression")

    def measures(self, labels: Tensor) -> dict[str, float]:
        """Compute all measures of a regression by name.

        Args:
            labels: Targets (N, C).
        """
        mean, variance = self.mean, self.variance
        values = (
            metrics.rmse(mean, labels),
            metrics.gaussian_nll(mean, variance, labels),
            metrics.gaussian_crps(mean, variance, labels),
            metrics.interval_coverage(mean, variance, labels),
        )
        return {name: float(value) for name, value in zip(self.measure_names, values, strict=True)}

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Compute the central interval that contains a target with probability `level`.

        Returns:
            Lower and upper end, (N, C) each.

        Raises:
            ValueError: Unless 0 < level < 1.
        """
        half = metrics.half_width(level) * self.std
        return self.mean - half, self.mean + half

    def log_density(self, targets: Tensor) -> Tensor:
        """Compute the log-density (N,) in nats of targets (N, C), or (N,) if C = 1, summed over the outputs."""
        targets = targets.reshape(self.mean.shape)
        variance = self.variance
        terms = (targets - self.mean).square() / variance + variance.log() + math.log(2 * math.pi)
        return -terms.sum(dim=-1) / 2

    def count_streak(self, previous: Streak | None) -> tuple["Regression", None]:
        """Return the prediction itself and no streak: a regression has no label to repeat."""
        return self, None

    def take(self, index: Tensor) -> "Regression":
        """Select the examples `index` (M,)."""
        return Regression(
            self.mean.index_select(0, index),
            self.epistemic_variance.index_select(0, index),
            self.noise_variance.index_select(0, index),
            tuple(member.take(index) for member in self.members),
        )

    def __len__(self) -> int:
        """Number of examples N."""
        return len(self.mean)
