"""What a network says and how sure it is.

For probabilities p with members p_j of weight w_j (the exits of an ensemble, or one exit alone):

    total      H[p]                      entropy of the answer
    aleatoric  Σ_j w_j E_q[H[p_j]]       expected entropy under each member's posterior, weights summing to 1
    epistemic  H[p] − aleatoric          what the members and their posteriors disagree about

All in nats. Without a posterior and without an ensemble the epistemic part is zero.

For numbers, independent outputs c in the units of the targets,

    y_c ~ N(mean_c, epistemic variance_c + noise variance_c)

where the epistemic part is what the weights, and the members of an ensemble, disagree about, and shrinks with data; the
noise is what the targets themselves scatter.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """Class probabilities of a batch with their uncertainty; every field is batch first.

    Attributes:
        log_probs: (N, C), log-probabilities; kept as logarithms so that nothing saturates at 1.
        aleatoric: (N,), expected entropy in nats.
        members: the exits' own predictions where this one is an ensemble, else empty.
        agreeing: (N,), how many exits in a row, up to and with this one, gave this label, int64; None where
            nobody counted.
    """

    log_probs: Tensor
    aleatoric: Tensor
    members: "tuple[Prediction, ...]" = ()
    agreeing: Tensor | None = None

    @property
    def probs(self) -> Tensor:
        """(N, C), probabilities."""
        return self.log_probs.exp()

    @property
    def label(self) -> Tensor:
        """(N,), the most probable class, int64."""
        return self.log_probs.argmax(dim=-1)

    @property
    def confidence(self) -> Tensor:
        """(N,), the greatest probability."""
        return self.log_probs.amax(dim=-1).exp()

    @property
    def entropy(self) -> Tensor:
        """(N,), total uncertainty H[p] in nats."""
        return entropy(self.log_probs)

    @property
    def epistemic(self) -> Tensor:
        """(N,), entropy minus aleatoric in nats, at least 0."""
        return (self.entropy - self.aleatoric).clamp_min(0)

    @property
    def soundness(self) -> Tensor:
        """(N,), a number that is finite where the prediction is one."""
        return self.log_probs.amax(dim=-1) + self.aleatoric

    def __len__(self) -> int:
        """N, the number of examples."""
        return len(self.log_probs)

    def take(self, index: Tensor) -> "Prediction":
        """The examples `index` (M,)."""
        return Prediction(
            self.log_probs.index_select(0, index),
            self.aleatoric.index_select(0, index),
            tuple(member.take(index) for member in self.members),
            None if self.agreeing is None else self.agreeing.index_select(0, index),
        )

    def counted(self, before: tuple[Tensor, Tensor] | None) -> tuple["Prediction", tuple[Tensor, Tensor]]:
        """The same with `agreeing`, and its label (N,) and count (N,) for the exit behind.

        Args:
            before: label (N,) and count (N,) at the exit before this one, if there is one.
        """
        label = self.label
        count = torch.ones_like(label) if before is None else before[1] * (label == before[0]) + 1
        return replace(self, agreeing=count), (label, count)


def entropy(log_probs: Tensor) -> Tensor:
    """Entropy −Σ p log p in nats over the last dimension; 0 log 0 counts as 0."""
    terms: Tensor = torch.special.entr(log_probs.exp())
    return terms.sum(dim=-1)


@dataclass(frozen=True)
class Regression:
    """Gaussian predictions of a batch; every field is batch first. The sibling of `Prediction`.

    Attributes:
        mean: (N, C).
        epistemic_variance: (N, C), of the mean.
        noise_variance: (N, C), of a target about its mean.
        members: the exits' own predictions where this one is an ensemble, else empty.
    """

    mean: Tensor
    epistemic_variance: Tensor
    noise_variance: Tensor
    members: "tuple[Regression, ...]" = ()

    @property
    def variance(self) -> Tensor:
        """(N, C), total variance of a target."""
        return self.epistemic_variance + self.noise_variance

    @property
    def std(self) -> Tensor:
        """(N, C), its root, in the units of the targets."""
        return self.variance.sqrt()

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Lower and upper end, (N, C) each, of the central interval that holds a target with probability `level`.

        Raises:
            ValueError: unless 0 < level < 1.
        """
        half = half_width(level) * self.std
        return self.mean - half, self.mean + half

    def log_density(self, targets: Tensor) -> Tensor:
        """Log-density (N,) in nats of targets (N, C), or (N,) where C = 1, summed over the outputs."""
        targets = targets.reshape(self.mean.shape)
        variance = self.variance
        terms = (targets - self.mean).square() / variance + variance.log() + math.log(2 * math.pi)
        return -terms.sum(dim=-1) / 2

    @property
    def soundness(self) -> Tensor:
        """(N,), a number that is finite where the prediction is one."""
        return (self.mean.abs() + self.variance).amax(dim=-1)

    def __len__(self) -> int:
        """N, the number of examples."""
        return len(self.mean)

    def take(self, index: Tensor) -> "Regression":
        """The examples `index` (M,)."""
        return Regression(
            self.mean.index_select(0, index),
            self.epistemic_variance.index_select(0, index),
            self.noise_variance.index_select(0, index),
            tuple(member.take(index) for member in self.members),
        )


def half_width(level: float) -> float:
    """Standard deviations from the middle to the ends of a Gaussian's central interval of probability `level`.

    Raises:
        ValueError: unless 0 < level < 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, got {level}; 0.95 is 95 %")
    return float(torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64)))


AnyPrediction = Prediction | Regression
"""What an exit answers: probabilities of classes, or Gaussians."""

P = TypeVar("P", Prediction, Regression)


def kept(prediction: P) -> P:
    """What is kept of a prediction to measure it: on the CPU, without its members."""
    columns = {field.name: getattr(prediction, field.name) for field in fields(prediction) if field.name != "members"}
    there = {name: column.cpu() for name, column in columns.items() if column is not None}
    return replace(prediction, **there, members=())


def concatenate(predictions: list[P]) -> P:
    """Batches of predictions of one exit joined into one."""
    kind = type(predictions[0])
    names = [field.name for field in fields(kind) if field.name != "members"]
    columns = {name: [getattr(prediction, name) for prediction in predictions] for name in names}
    joined: dict[str, Any] = {
        name: None if any(v is None for v in column) else torch.cat(column) for name, column in columns.items()
    }
    members = zip(*(prediction.members for prediction in predictions), strict=True)
    return kind(**joined, members=tuple(concatenate(list(member)) for member in members))
