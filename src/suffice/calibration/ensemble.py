"""Model-internal ensembling: the answer at exit k averages the distributions of exits up to k.

    p_k = Σ_{j≤k} w_j p_j / Σ_{j≤k} w_j,   w_j = cumulative multiply-adds up to exit j

Of classes, that is an average of probabilities. Of Gaussians it is a mixture, answered by its moments:

    mean = Σ w̃ μ,   epistemic variance = Σ w̃ (v + (μ − mean)²),   noise variance = Σ w̃ σ²,   w̃ = w / Σ w

Kept as running sums, so that examples that go on carry them and examples that left need nothing.
Qendro et al. 2021 (early-exit ensembles); Meronen et al. 2024 (the weights).
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from suffice.prediction import AnyPrediction, Prediction
from suffice.regression import Regression


class Running(Protocol):
    """Sums over the exits so far, of predictions of one kind."""

    @classmethod
    def of(cls, member: Any, weight: float) -> Self:
        """Sums of one exit."""

    def merge(self, other: Self) -> Self:
        """Sums of the exits of both."""

    def take(self, index: Tensor) -> Self:
        """The examples `index` (M,)."""

    def prediction(self, members: Any = ()) -> AnyPrediction:
        """The ensemble over the exits so far."""


@dataclass(frozen=True)
class Categorical:
    """Sums of probabilities.

    Attributes:
        log_sum: log Σ_j w_j p_j, (N, C).
        aleatoric_sum: Σ_j w_j aleatoric_j, (N,), in nats.
        weight: Σ_j w_j.
    """

    log_sum: Tensor
    aleatoric_sum: Tensor
    weight: float

    @classmethod
    def of(cls, member: Prediction, weight: float) -> "Categorical":
        """Sums of one exit."""
        return cls(member.log_probs + math.log(weight), weight * member.aleatoric, weight)

    def merge(self, other: "Categorical") -> "Categorical":
        """Sums of the exits of both."""
        log_sum = torch.logaddexp(self.log_sum, other.log_sum)
        return Categorical(log_sum, self.aleatoric_sum + other.aleatoric_sum, self.weight + other.weight)

    def take(self, index: Tensor) -> "Categorical":
        """The examples `index` (M,)."""
        return Categorical(self.log_sum.index_select(0, index), self.aleatoric_sum.index_select(0, index), self.weight)

    def prediction(self, members: tuple[Prediction, ...] = ()) -> Prediction:
        """The ensemble over the exits so far."""
        log_probs = self.log_sum - math.log(self.weight)
        return Prediction(log_probs, self.aleatoric_sum / self.weight, members)


@dataclass(frozen=True)
class Gaussian:
    """Sums of moments; about the mean so far, as squares of large means would cancel.

    Attributes:
        mean: Σ_j w_j μ_j / Σ_j w_j, (N, C).
        spread_sum: Σ_j w_j (v_j + (μ_j − mean)²), (N, C).
        noise_sum: Σ_j w_j σ²_j, (N, C).
        weight: Σ_j w_j.
    """

    mean: Tensor
    spread_sum: Tensor
    noise_sum: Tensor
    weight: float

    @classmethod
    def of(cls, member: Regression, weight: float) -> "Gaussian":
        """Sums of one exit."""
        return cls(member.mean, weight * member.epistemic_variance, weight * member.noise_variance, weight)

    def merge(self, other: "Gaussian") -> "Gaussian":
        """Sums of the exits of both."""
        weight = self.weight + other.weight
        difference = other.mean - self.mean
        between = difference.square() * (self.weight * other.weight / weight)
        return Gaussian(
            self.mean + difference * (other.weight / weight),
            self.spread_sum + other.spread_sum + between,
            self.noise_sum + other.noise_sum,
            weight,
        )

    def take(self, index: Tensor) -> "Gaussian":
        """The examples `index` (M,)."""
        return Gaussian(
            self.mean.index_select(0, index),
            self.spread_sum.index_select(0, index),
            self.noise_sum.index_select(0, index),
            self.weight,
        )

    def prediction(self, members: tuple[Regression, ...] = ()) -> Regression:
        """The ensemble over the exits so far, a Gaussian with the moments of the mixture."""
        return Regression(self.mean, self.spread_sum / self.weight, self.noise_sum / self.weight, members)


def extend(running: Running | None, member: AnyPrediction, weight: float) -> Running:
    """Add one exit's own prediction with its weight > 0."""
    kind: type[Running] = Gaussian if isinstance(member, Regression) else Categorical
    own = kind.of(member, weight)
    return own if running is None else running.merge(own)
