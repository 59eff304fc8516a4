"""Model-internal ensembling: exit k predicts with a weighted average over the exits up to k.

    average   p_k = Σ_{j≤k} w_j p_j / Σ_{j≤k} w_j
    product   p_k ∝ exp(Σ_{j≤k} w_j log p_j / Σ_{j≤k} w_j)

The weights w_j are the cumulative multiply-adds up to exit j, or tuned. At exit k only the ratio of w_k to the sum of
the earlier weights matters, so each prediction moves the one before it toward the prediction of exit k alone.

For classes, "average" averages probabilities; for several labels, those of each label by itself. For Gaussians it is a
mixture, represented by its moments:

    mean = Σ w̃ μ,   epistemic variance = Σ w̃ (v + (μ − mean)²),   noise variance = Σ w̃ σ²,   w̃ = w / Σ w

Sums are stored as running averages, which are selected when examples leave the batch.
Qendro et al. 2021 (early-exit ensembles); Meronen et al. 2024 (multiply-adds as weights); Genest and Zidek 1986 (the
product, a logarithmic pool); Jazbec et al. 2023 (products of exits); Yao et al. 2018 (stacking weights).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, Protocol, Self

import torch
from torch import Tensor

from suffice.cost import Costs
from suffice.prediction import AnyPrediction, Kind, Multilabel, Prediction, Regression, entropy

Combination = Literal["average", "product", False]
"""How exits predict together; False is each alone."""

Ensemble = Combination | Literal[True]
"""Choice of a combination: True is "product" for classes and labels, and "average" for regressions."""

Weights = Literal["cost", "tuned"]
"""Choice of the ensemble's weights."""

Weight = float | Tensor
"""Weight of one exit, above 0; a scalar tensor while it is tuned."""


def combination(ensemble: Ensemble, discrete: bool) -> Combination:
    """Return the combination that a choice stands for.

    Args:
        ensemble: Choice; True is the default of the likelihood.
        discrete: Whether predictions are probabilities of classes or labels.

    Raises:
        ValueError: For any other value.
    """
    if ensemble is True:
        return "product" if discrete else "average"
    if ensemble is not False and ensemble not in ("average", "product"):
        raise ValueError(f"expected ensemble to be True, False, 'average' or 'product', got {ensemble!r}")
    return ensemble


class Running(Protocol):
    """Running weighted averages of the predictions of the exits so far."""

    @classmethod
    def of(cls, member: Any, weight: Weight) -> Self:
        """Start with the prediction of one exit."""

    def merge(self, other: Self) -> Self:
        """Combine the averages over two disjoint sets of exits."""

    def take(self, index: Tensor) -> Self:
        """Select the examples `index` (M,)."""

    def prediction(self, members: Any = ()) -> AnyPrediction:
        """Return the prediction of the ensemble over the exits so far."""


class _Averages:
    """Base class of frozen dataclasses of tensors with one row per example, and their total weight."""

    weight: Weight

    def take(self, index: Tensor) -> Self:
        """Select the examples `index` (M,)."""
        rows = {name: getattr(self, name).index_select(0, index) for name in _tensor_fields(self)}
        return replace(self, **rows)  # type: ignore[type-var]

    def _shares(self, other: Self) -> tuple[Weight, Weight, Weight]:
        """Return the total weight and the shares of both in it."""
        weight = self.weight + other.weight
        return weight, self.weight / weight, other.weight / weight


@dataclass(frozen=True)
class _ClassAverages(_Averages):
    """Weighted averages over the predictions of classes; subclasses define how log-probabilities are combined.

    Attributes:
        log_probs: Combined log-probabilities, (N, C), or (N, K, 2) of K labels.
        aleatoric: Average Σ_j w_j aleatoric_j / Σ_j w_j, (N,), or (N, K) of each label, in nats.
        weight: Total weight Σ_j w_j.
    """

    predicted: ClassVar[type[Prediction] | type[Multilabel]] = Prediction

    log_probs: Tensor
    aleatoric: Tensor
    weight: Weight

    @classmethod
    def of(cls, member: Prediction | Multilabel, weight: Weight) -> Self:
        """Start with the prediction of one exit."""
        aleatoric = member.label_aleatoric if isinstance(member, Multilabel) else member.aleatoric
        return cls(member.log_probs, aleatoric, weight)

    def merge(self, other: Self) -> Self:
        """Combine the averages over two disjoint sets of exits."""
        weight, share, other_share = self._shares(other)
        log_probs = self._combine(self.log_probs, other.log_probs, share, other_share)
        return type(self)(log_probs, _lerp(self.aleatoric, other.aleatoric, other_share), weight)

    @staticmethod
    def _combine(first: Tensor, second: Tensor, share: Weight, other_share: Weight) -> Tensor:
        raise NotImplementedError


class Average(_ClassAverages):
    """Weighted average of probabilities; `log_probs` is log Σ_j w_j p_j / Σ_j w_j."""

    @staticmethod
    def _combine(first: Tensor, second: Tensor, share: Weight, other_share: Weight) -> Tensor:
        return torch.logaddexp(first + _log(share), second + _log(other_share))

    def prediction(self, members: tuple[Any, ...] = ()) -> Prediction | Multilabel:
        """Return the prediction of the ensemble over the exits so far."""
        return self.predicted(self.log_probs, self.aleatoric, members)


class Product(_ClassAverages):
    """Weighted average of log-probabilities; `log_probs` is Σ_j w_j log p_j / Σ_j w_j, not normalized."""

    @staticmethod
    def _combine(first: Tensor, second: Tensor, share: Weight, other_share: Weight) -> Tensor:
        return _lerp(first, second, other_share)

    def prediction(self, members: tuple[Any, ...] = ()) -> Prediction | Multilabel:
        """Return the prediction of the ensemble over the exits so far.

        Its entropy may be lower than that of every member, so the aleatoric part is their mean, limited to the entropy.
        """
        log_probs = self.log_probs.log_softmax(dim=-1)
        return self.predicted(log_probs, torch.minimum(self.aleatoric, entropy(log_probs)), members)


class LabelAverage(Average):
    """Weighted average of the probabilities of each label."""

    predicted = Multilabel


class LabelProduct(Product):
    """Weighted average of the log-probabilities of each label being absent and present."""

    predicted = Multilabel


@dataclass(frozen=True)
class Mixture(_Averages):
    """Moments of a mixture of Gaussians; squares are about the current mean, as those of large means would cancel.

    Attributes:
        mean: Mean Σ_j w_j μ_j / Σ_j w_j, (N, C).
        spread: Epistemic variance Σ_j w_j (v_j + (μ_j − mean)²) / Σ_j w_j, (N, C).
        noise: Noise variance Σ_j w_j σ²_j / Σ_j w_j, (N, C).
        weight: Total weight Σ_j w_j.
    """

    mean: Tensor
    spread: Tensor
    noise: Tensor
    weight: Weight

    @classmethod
    def of(cls, member: Regression, weight: Weight) -> Self:
        """Start with the prediction of one exit."""
        return cls(member.mean, member.epistemic_variance, member.noise_variance, weight)

    def merge(self, other: Self) -> Self:
        """Combine the averages over two disjoint sets of exits."""
        weight, share, other_share = self._shares(other)
        between = (other.mean - self.mean).square() * (share * other_share)
        return type(self)(
            _lerp(self.mean, other.mean, other_share),
            _lerp(self.spread, other.spread, other_share) + between,
            _lerp(self.noise, other.noise, other_share),
            weight,
        )

    def prediction(self, members: tuple[Regression, ...] = ()) -> Regression:
        """Return the prediction of the ensemble over the exits so far, a Gaussian with the moments of the mixture."""
        return Regression(self.mean, self.spread, self.noise, members)


AVERAGES: dict[Kind, type[Running]] = {"classification": Average, "multilabel": LabelAverage, "regression": Mixture}
"""Running average of the predictions of each kind."""

PRODUCTS: dict[Kind, type[Running]] = {"classification": Product, "multilabel": LabelProduct}
"""Running product of the predictions of each kind that has one."""


def extend(running: Running | None, member: AnyPrediction, weight: Weight, product: bool = False) -> Running:
    """Add the prediction of one exit with its weight > 0 to the average or, for classes and labels, to the product.

    Args:
        running: Averages over the earlier exits; None for the first exit.
        member: Prediction of the exit alone.
        weight: Weight of the exit, above 0.
        product: Average log-probabilities, not probabilities.
    """
    kind = (PRODUCTS if product else AVERAGES)[member.kind]
    first = kind.of(member, weight)
    return first if running is None else running.merge(first)


def tensors(running: Running) -> list[Tensor]:
    """Return the tensors of averages, one row per example, in the order of the fields."""
    return [getattr(running, name) for name in _tensor_fields(running)]


def restore(kind: Kind, columns: Sequence[Tensor], weight: Weight, product: bool = False) -> Running:
    """Return the averages with given tensors and total weight, the reverse of `tensors`.

    Args:
        kind: Kind of the predictions.
        columns: Tensors in the order of the fields.
        weight: Total weight of the exits so far.
        product: Whether log-probabilities were averaged, and not probabilities.
    """
    family: Any = (PRODUCTS if product else AVERAGES)[kind]
    running: Running = family(*columns, weight)
    return running


def join(parts: Sequence[Running]) -> Running:
    """Concatenate the averages of different examples over the same exits, the reverse of `take`."""
    columns = {name: [getattr(part, name) for part in parts] for name in _tensor_fields(parts[0])}
    return replace(parts[0], **{name: torch.cat(column) for name, column in columns.items()})  # type: ignore[type-var]


def shares_of_cost(costs: Costs) -> list[float]:
    """Return the untuned weights of the exits: cumulative multiply-adds relative to those of the last exit."""
    return [macs / costs.network[-1] for macs in costs.network]


def _log(share: Weight) -> Weight:
    return share.log() if isinstance(share, Tensor) else math.log(share)


def _lerp(start: Tensor, end: Tensor, share: Weight) -> Tensor:
    """Interpolate as `torch.lerp` does, with a share of any type."""
    return start + (end - start) * share


def _tensor_fields(running: Any) -> list[str]:
    return [field.name for field in fields(running) if field.name != "weight"]
