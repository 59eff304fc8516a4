"""Model-internal ensembling: the answer at exit k averages the distributions of exits up to k, or their logarithms.

    average   p_k = Σ_{j≤k} w_j p_j / Σ_{j≤k} w_j,     w_j = cumulative multiply-adds up to exit j
    product   p_k ∝ exp(Σ_{j≤k} w_j log p_j / Σ_{j≤k} w_j)

Of classes, the first is an average of probabilities. Of Gaussians it is a mixture, answered by its moments:

    mean = Σ w̃ μ,   epistemic variance = Σ w̃ (v + (μ − mean)²),   noise variance = Σ w̃ σ²,   w̃ = w / Σ w

Kept as running sums, so that examples that go on carry them and examples that left need nothing.
Qendro et al. 2021 (early-exit ensembles); Meronen et al. 2024 (the weights); Genest and Zidek 1986 (the product, a
logarithmic pool); Jazbec et al. 2023 (products of exits).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol, Self, TypeVar

import torch
from torch import Tensor

from suffice.prediction import AnyPrediction, Prediction, entropy
from suffice.regression import Regression

R = TypeVar("R")

Ensemble = bool | Literal["average", "product"]
"""How exits answer together: True is "average", False not at all."""


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
class Average:
    """The average of probabilities, and what it weighs.

    Attributes:
        log_probs: log Σ_j w_j p_j / Σ_j w_j, (N, C).
        aleatoric: Σ_j w_j aleatoric_j / Σ_j w_j, (N,), in nats.
        weight: Σ_j w_j.
    """

    log_probs: Tensor
    aleatoric: Tensor
    weight: float

    @classmethod
    def of(cls, member: Prediction, weight: float) -> Self:
        """Sums of one exit."""
        return cls(member.log_probs, member.aleatoric, weight)

    def merge(self, other: Self) -> Self:
        """Sums of the exits of both."""
        weight = self.weight + other.weight
        own, theirs = self.weight / weight, other.weight / weight
        log_probs = torch.logaddexp(self.log_probs + math.log(own), other.log_probs + math.log(theirs))
        return type(self)(log_probs, torch.lerp(self.aleatoric, other.aleatoric, theirs), weight)

    def take(self, index: Tensor) -> Self:
        """The examples `index` (M,)."""
        return _each(self, lambda tensor: tensor.index_select(0, index))

    def prediction(self, members: tuple[Prediction, ...] = ()) -> Prediction:
        """The ensemble over the exits so far."""
        return Prediction(self.log_probs, self.aleatoric, members)


@dataclass(frozen=True)
class Product:
    """Sums of log-probabilities.

    Attributes:
        log_sum: Σ_j w_j log p_j, (N, C).
        aleatoric_sum: Σ_j w_j aleatoric_j, (N,), in nats.
        weight: Σ_j w_j.
    """

    log_sum: Tensor
    aleatoric_sum: Tensor
    weight: float

    @classmethod
    def of(cls, member: Prediction, weight: float) -> Self:
        """Sums of one exit."""
        return cls(weight * member.log_probs, weight * member.aleatoric, weight)

    def merge(self, other: Self) -> Self:
        """Sums of the exits of both."""
        aleatoric_sum = self.aleatoric_sum + other.aleatoric_sum
        return type(self)(self.log_sum + other.log_sum, aleatoric_sum, self.weight + other.weight)

    def take(self, index: Tensor) -> Self:
        """The examples `index` (M,)."""
        return _each(self, lambda tensor: tensor.index_select(0, index))

    def prediction(self, members: tuple[Prediction, ...] = ()) -> Prediction:
        """The ensemble over the exits so far.

        It may be surer than its members: its aleatoric part is their mean, but at most its entropy.
        """
        log_probs = (self.log_sum / self.weight).log_softmax(dim=-1)
        return Prediction(log_probs, torch.minimum(self.aleatoric_sum / self.weight, entropy(log_probs)), members)


@dataclass(frozen=True)
class Mixture:
    """Sums of the moments of Gaussians; about the mean so far, as squares of large means would cancel.

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
    def of(cls, member: Regression, weight: float) -> Self:
        """Sums of one exit."""
        return cls(member.mean, weight * member.epistemic_variance, weight * member.noise_variance, weight)

    def merge(self, other: Self) -> Self:
        """Sums of the exits of both."""
        weight = self.weight + other.weight
        difference = other.mean - self.mean
        between = difference.square() * (self.weight * other.weight / weight)
        return type(self)(
            self.mean + difference * (other.weight / weight),
            self.spread_sum + other.spread_sum + between,
            self.noise_sum + other.noise_sum,
            weight,
        )

    def take(self, index: Tensor) -> Self:
        """The examples `index` (M,)."""
        return _each(self, lambda tensor: tensor.index_select(0, index))

    def prediction(self, members: tuple[Regression, ...] = ()) -> Regression:
        """The ensemble over the exits so far, a Gaussian with the moments of the mixture."""
        return Regression(self.mean, self.spread_sum / self.weight, self.noise_sum / self.weight, members)


def extend(running: Running | None, member: AnyPrediction, weight: float, product: bool = False) -> Running:
    """Add one exit's own prediction with its weight > 0, to an average or, of classes only, a product."""
    kind: type[Running] = Mixture if isinstance(member, Regression) else Product if product else Average
    own = kind.of(member, weight)
    return own if running is None else running.merge(own)


def join(parts: Sequence[Running]) -> Running:
    """Sums of different examples over the same exits, the reverse of `take`."""
    others = {name: [getattr(part, name) for part in parts] for name in _tensors(parts[0])}
    return replace(parts[0], **{name: torch.cat(tensors) for name, tensors in others.items()})  # type: ignore[type-var]


def _tensors(running: Any) -> list[str]:
    return [field.name for field in fields(running) if field.name != "weight"]


def _each(running: R, change: Callable[[Tensor], Tensor]) -> R:
    changed = {name: change(getattr(running, name)) for name in _tensors(running)}
    return replace(running, **changed)  # type: ignore[type-var]
