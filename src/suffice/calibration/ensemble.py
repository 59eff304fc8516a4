"""Model-internal ensembling: the answer at exit k averages the distributions of exits up to k, or their logarithms.

    average   p_k = Σ_{j≤k} w_j p_j / Σ_{j≤k} w_j
    product   p_k ∝ exp(Σ_{j≤k} w_j log p_j / Σ_{j≤k} w_j)

The weights w_j are the cumulative multiply-adds up to exit j, or tuned: what matters at exit k is only w_k beside the
sum of those before it, so that each answer is the one before it moved towards the exit's own.

Of classes, the first is an average of probabilities. Of Gaussians it is a mixture, answered by its moments:

    mean = Σ w̃ μ,   epistemic variance = Σ w̃ (v + (μ − mean)²),   noise variance = Σ w̃ σ²,   w̃ = w / Σ w

Kept as running averages, so that examples that go on carry them and examples that left need nothing.
Qendro et al. 2021 (early-exit ensembles); Meronen et al. 2024 (multiply-adds as weights); Genest and Zidek 1986 (the
product, a logarithmic pool); Jazbec et al. 2023 (products of exits); Yao et al. 2018 (weights by what is answered).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol, Self, TypeVar

import torch
from torch import Tensor

from suffice.cost import Costs
from suffice.prediction import AnyPrediction, Prediction, Regression, entropy

R = TypeVar("R")

Ensemble = bool | Literal["average", "product"]
"""How exits answer together: True is "average", False not at all."""

Weights = Literal["cost", "tuned"]
"""Of the exits that answer together."""

Weight = float | Tensor
"""Of one exit, above 0; a scalar tensor while it is tuned."""


class Running(Protocol):
    """Sums over the exits so far, of predictions of one kind."""

    @classmethod
    def of(cls, member: Any, weight: Weight) -> Self:
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
    weight: Weight

    @classmethod
    def of(cls, member: Prediction, weight: Weight) -> Self:
        """Sums of one exit."""
        return cls(member.log_probs, member.aleatoric, weight)

    def merge(self, other: Self) -> Self:
        """Sums of the exits of both."""
        weight = self.weight + other.weight
        own, theirs = self.weight / weight, other.weight / weight
        log_probs = torch.logaddexp(self.log_probs + _log(own), other.log_probs + _log(theirs))
        return type(self)(log_probs, _towards(self.aleatoric, other.aleatoric, theirs), weight)

    def take(self, index: Tensor) -> Self:
        """The examples `index` (M,)."""
        return _each(self, lambda tensor: tensor.index_select(0, index))

    def prediction(self, members: tuple[Prediction, ...] = ()) -> Prediction:
        """The ensemble over the exits so far."""
        return Prediction(self.log_probs, self.aleatoric, members)


@dataclass(frozen=True)
class Product:
    """The average of log-probabilities, and what it weighs.

    Attributes:
        log_mean: Σ_j w_j log p_j / Σ_j w_j, (N, C).
        aleatoric: Σ_j w_j aleatoric_j / Σ_j w_j, (N,), in nats.
        weight: Σ_j w_j.
    """

    log_mean: Tensor
    aleatoric: Tensor
    weight: Weight

    @classmethod
    def of(cls, member: Prediction, weight: Weight) -> Self:
        """Sums of one exit."""
        return cls(member.log_probs, member.aleatoric, weight)

    def merge(self, other: Self) -> Self:
        """Sums of the exits of both."""
        weight = self.weight + other.weight
        theirs = other.weight / weight
        log_mean = _towards(self.log_mean, other.log_mean, theirs)
        return type(self)(log_mean, _towards(self.aleatoric, other.aleatoric, theirs), weight)

    def take(self, index: Tensor) -> Self:
        """The examples `index` (M,)."""
        return _each(self, lambda tensor: tensor.index_select(0, index))

    def prediction(self, members: tuple[Prediction, ...] = ()) -> Prediction:
        """The ensemble over the exits so far.

        It may be surer than its members: its aleatoric part is their mean, but at most its entropy.
        """
        log_probs = self.log_mean.log_softmax(dim=-1)
        return Prediction(log_probs, torch.minimum(self.aleatoric, entropy(log_probs)), members)


@dataclass(frozen=True)
class Mixture:
    """The moments of Gaussians; about the mean so far, as squares of large means would cancel.

    Attributes:
        mean: Σ_j w_j μ_j / Σ_j w_j, (N, C).
        spread: Σ_j w_j (v_j + (μ_j − mean)²) / Σ_j w_j, (N, C).
        noise: Σ_j w_j σ²_j / Σ_j w_j, (N, C).
        weight: Σ_j w_j.
    """

    mean: Tensor
    spread: Tensor
    noise: Tensor
    weight: Weight

    @classmethod
    def of(cls, member: Regression, weight: Weight) -> Self:
        """Sums of one exit."""
        return cls(member.mean, member.epistemic_variance, member.noise_variance, weight)

    def merge(self, other: Self) -> Self:
        """Sums of the exits of both."""
        weight = self.weight + other.weight
        own, theirs = self.weight / weight, other.weight / weight
        between = (other.mean - self.mean).square() * (own * theirs)
        return type(self)(
            _towards(self.mean, other.mean, theirs),
            _towards(self.spread, other.spread, theirs) + between,
            _towards(self.noise, other.noise, theirs),
            weight,
        )

    def take(self, index: Tensor) -> Self:
        """The examples `index` (M,)."""
        return _each(self, lambda tensor: tensor.index_select(0, index))

    def prediction(self, members: tuple[Regression, ...] = ()) -> Regression:
        """The ensemble over the exits so far, a Gaussian with the moments of the mixture."""
        return Regression(self.mean, self.spread, self.noise, members)


def extend(running: Running | None, member: AnyPrediction, weight: Weight, product: bool = False) -> Running:
    """Add one exit's own prediction with its weight > 0, to an average or, of classes only, a product."""
    kind: type[Running] = Mixture if isinstance(member, Regression) else Product if product else Average
    own = kind.of(member, weight)
    return own if running is None else running.merge(own)


def join(parts: Sequence[Running]) -> Running:
    """Sums of different examples over the same exits, the reverse of `take`."""
    others = {name: [getattr(part, name) for part in parts] for name in _tensors(parts[0])}
    return replace(parts[0], **{name: torch.cat(tensors) for name, tensors in others.items()})  # type: ignore[type-var]


def shares_of_cost(costs: Costs) -> list[float]:
    """Weights of the exits where they are not tuned: cumulative multiply-adds, as a share of the last exit's."""
    return [macs / costs.network[-1] for macs in costs.network]


def _log(share: Weight) -> Weight:
    return share.log() if isinstance(share, Tensor) else math.log(share)


def _towards(one: Tensor, other: Tensor, share: Weight) -> Tensor:
    """`torch.lerp`, whatever the type of the share."""
    return one + (other - one) * share


def _tensors(running: Any) -> list[str]:
    return [field.name for field in fields(running) if field.name != "weight"]


def _each(running: R, change: Callable[[Tensor], Tensor]) -> R:
    changed = {name: change(getattr(running, name)) for name in _tensors(running)}
    return replace(running, **changed)  # type: ignore[type-var]
