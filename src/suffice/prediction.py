"""Predictions with their uncertainty.

For probabilities p with members p_j of weight w_j (the exits of an ensemble, or a single exit):

    total      H[p]                      entropy of the prediction
    aleatoric  Σ_j w_j E_q[H[p_j]]       expected entropy under each member's posterior, weights summing to 1
    epistemic  H[p] − aleatoric          disagreement of the members and of their posteriors

All in nats. Without a posterior and without an ensemble the epistemic part is zero.

For regression, independent outputs c in the units of the targets,

    y_c ~ N(mean_c, epistemic variance_c + noise variance_c)

where the epistemic variance is the disagreement of the weights and of the members of an ensemble, and shrinks with
data; the noise variance is the scatter of the targets about their mean.

`Prediction` and `Regression` have the interface `AnyPrediction`, so that code for both needs no case distinction.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, Protocol, Self, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from suffice import metrics

Kind = Literal["classification", "regression"]

Loss = Literal["accuracy", "brier"]
"""Loss of a prediction of classes: its error, 0 or 1, or its Brier score in [0, 2]."""

Streak = tuple[Tensor, Tensor]
"""Label (N,) at an exit, and the number (N,) of exits in a row up to this one with that label; int64."""


class AnyPrediction(Protocol):
    """Interface of the predictions that an exit can make: `Prediction` and `Regression`."""

    kind: ClassVar[Kind]
    """Kind of the targets."""

    score_names: ClassVar[tuple[str, ...]]
    """Names of the scores in `suffice.budget.scores` that apply."""

    measure_names: ClassVar[tuple[str, ...]]
    """Keys of `measures`."""

    @property
    def members(self) -> "tuple[AnyPrediction, ...]":
        """Predictions of the single exits if this one is an ensemble, else empty."""

    @property
    def outputs(self) -> Tensor:
        """Parameters of the predicted distributions, (N, F)."""

    @property
    def default_score(self) -> Tensor:
        """Score (N,) for early exits unless another one is chosen, higher meaning more certain."""

    @property
    def epistemic_score(self) -> Tensor:
        """Score (N,) by the epistemic uncertainty alone, higher meaning more certain."""

    @property
    def chance_correct(self) -> Tensor:
        """Predicted probability (N,) that the label is correct, float64; NaN for regression."""

    @property
    def soundness(self) -> Tensor:
        """Value (N,) that is finite where all fields are, so that one check covers them."""

    def losses(self, labels: Tensor, loss: Loss) -> Tensor:
        """Compute the loss (N,) that a risk guarantee controls, float64."""

    def measures(self, labels: Tensor) -> dict[str, float]:
        """Compute all measures that apply, by name."""

    def count_streak(self, previous: Streak | None) -> tuple[Self, Streak | None]:
        """Count the exits in a row with the same label, where there are labels."""

    def take(self, index: Tensor) -> Self:
        """Select the examples `index` (M,)."""

    def __len__(self) -> int:
        """Number of examples N."""


@dataclass(frozen=True)
class Prediction:
    """Class probabilities of a batch with their uncertainty; every field is batch first.

    Attributes:
        log_probs: Log-probabilities (N, C), which do not saturate where probabilities round to 1.
        aleatoric: Expected entropy (N,) in nats.
        members: Predictions of the single exits if this one is an ensemble, else empty.
        agreeing: Number (N,) of exits in a row, up to and including this one, that predict this label, int64; None
            where it was not counted.

    Example:
        >>> import torch
        >>> from suffice import Prediction
        >>> prediction = Prediction(torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log(), aleatoric=torch.zeros(2))
        >>> prediction.label.tolist()
        [0, 1]
        >>> [round(nats, 2) for nats in prediction.entropy.tolist()]
        [0.33, 0.5]
    """

    kind: ClassVar[Kind] = "classification"
    score_names: ClassVar[tuple[str, ...]] = (
        "aleatoric", "confidence", "entropy", "epistemic", "margin", "patience",
    )  # fmt: skip
    measure_names: ClassVar[tuple[str, ...]] = (
        "accuracy", "top5", "nll", "brier", "ece", "ece_equal_mass", "auroc", "aurc",
    )  # fmt: skip

    log_probs: Tensor
    aleatoric: Tensor
    members: "tuple[Prediction, ...]" = ()
    agreeing: Tensor | None = None

    @property
    def probs(self) -> Tensor:
        """Class probabilities (N, C)."""
        return self.log_probs.exp()

    @property
    def label(self) -> Tensor:
        """Most probable class (N,), int64."""
        return self.log_probs.argmax(dim=-1)

    @property
    def confidence(self) -> Tensor:
        """Greatest probability (N,)."""
        return self.log_probs.amax(dim=-1).exp()

    @property
    def log_odds(self) -> Tensor:
        """Log-odds (N,) of the most probable class, log p − log(1 − p).

        They rank as its probability does, but do not saturate at 1, where overconfident networks tie.
        """
        top, label = self.log_probs.max(dim=-1)
        others = self.log_probs.scatter(-1, label[:, None], -torch.inf)
        return top - others.logsumexp(dim=-1)

    @property
    def entropy(self) -> Tensor:
        """Total uncertainty H[p] (N,) in nats."""
        return entropy(self.log_probs)

    @property
    def epistemic(self) -> Tensor:
        """Entropy minus aleatoric uncertainty (N,) in nats, at least 0."""
        return (self.entropy - self.aleatoric).clamp_min(0)

    @property
    def outputs(self) -> Tensor:
        """Log-probabilities (N, C)."""
        return self.log_probs

    @property
    def default_score(self) -> Tensor:
        """Log-odds (N,) of the most probable class."""
        return self.log_odds

    @property
    def epistemic_score(self) -> Tensor:
        """Negative epistemic uncertainty (N,) in nats."""
        return -self.epistemic

    @property
    def chance_correct(self) -> Tensor:
        """Predicted probability (N,) that the label is correct, float64."""
        return self.confidence.double()

    @property
    def soundness(self) -> Tensor:
        """Value (N,) that is finite where all fields are, so that one check covers them."""
        return self.log_probs.amax(dim=-1) + self.aleatoric

    def correct(self, labels: Tensor) -> Tensor:
        """Return whether the predicted label of each example is the true one, (N,) bool."""
        return metrics.correct(self.log_probs, labels)

    def losses(self, labels: Tensor, loss: Loss) -> Tensor:
        """Compute the error (0 or 1) or the Brier score (0 to 2) of each example, (N,) float64."""
        if loss == "accuracy":
            return 1 - self.correct(labels).double()
        probs = self.probs
        return (probs.double() - one_hot(labels, probs.shape[-1])).square().sum(dim=-1)

    def measures(self, labels: Tensor) -> dict[str, float]:
        """Compute all measures of a classification by name; AUROC and AURC rank by the default score.

        Args:
            labels: Labels (N,), int64.
        """
        probs, hits, score = self.probs, self.correct(labels), self.default_score
        values = (
            metrics.accuracy(probs, labels),
            metrics.top_k_accuracy(probs, labels),
            metrics.nll(self.log_probs, labels),
            metrics.brier(probs, labels),
            metrics.ece(probs, labels),
            metrics.ece(probs, labels, equal_mass=True),
            metrics.auroc(score, hits),
            metrics.aurc(score, hits),
        )
        return {name: float(value) for name, value in zip(self.measure_names, values, strict=True)}

    def count_streak(self, previous: Streak | None) -> tuple["Prediction", Streak]:
        """Count the exits in a row with the same label.

        Args:
            previous: Streak at the exit before this one, or None at the first exit.

        Returns:
            The prediction with `agreeing` filled in, and the streak for the next exit.
        """
        label = self.label
        count = torch.ones_like(label) if previous is None else previous[1] * (label == previous[0]) + 1
        return replace(self, agreeing=count), (label, count)

    def take(self, index: Tensor) -> "Prediction":
        """Select the examples `index` (M,)."""
        return Prediction(
            self.log_probs.index_select(0, index),
            self.aleatoric.index_select(0, index),
            tuple(member.take(index) for member in self.members),
            None if self.agreeing is None else self.agreeing.index_select(0, index),
        )

    def __len__(self) -> int:
        """Number of examples N."""
        return len(self.log_probs)


def entropy(log_probs: Tensor) -> Tensor:
    """Compute the entropy −Σ p log p in nats over the last dimension; 0 log 0 counts as 0."""
    terms: Tensor = torch.special.entr(log_probs.exp())
    return terms.sum(dim=-1)


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


P = TypeVar("P", Prediction, Regression)


def without_members(prediction: P) -> P:
    """Return a copy on the CPU without the members, to be kept for measures."""
    names = [field.name for field in fields(prediction) if field.name != "members"]
    columns = {name: column.cpu() for name in names if (column := getattr(prediction, name)) is not None}
    return replace(prediction, **columns, members=())


def concatenate(predictions: list[P]) -> P:
    """Concatenate predictions of different examples by the same exit along the batch dimension."""
    kind = type(predictions[0])
    names = [field.name for field in fields(kind) if field.name != "members"]
    columns = {name: [getattr(prediction, name) for prediction in predictions] for name in names}
    joined: dict[str, Any] = {
        name: None if any(part is None for part in column) else torch.cat(column) for name, column in columns.items()
    }
    members = zip(*(prediction.members for prediction in predictions), strict=True)
    return kind(**joined, members=tuple(concatenate(list(member)) for member in members))
