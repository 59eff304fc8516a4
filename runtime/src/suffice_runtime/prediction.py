"""Predictions with their uncertainty, on arrays: classes, several labels, or Gaussians over numbers.

The counterparts of `suffice.Prediction`, `suffice.Multilabel` and `suffice.Regression`, with the fields that a graph
computes and the properties of those. Total uncertainty is the entropy of the prediction, aleatoric the expected entropy
under the posteriors and members behind it, epistemic the difference; all in nats. Members are not exported.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from statistics import NormalDist
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class _Rows:
    """Base class of frozen dataclasses of arrays with one row per example."""

    @classmethod
    @cache
    def names(cls) -> tuple[str, ...]:
        """Names of the fields, which are those of the outputs of a graph."""
        return tuple(field.name for field in fields(cls))  # type: ignore[arg-type]

    def take(self, index: Array) -> Self:
        """Select the examples `index` (M,)."""
        return type(self)(*(getattr(self, name)[index] for name in self.names()))

    def __len__(self) -> int:
        """Number of examples N."""
        return len(getattr(self, self.names()[0]))


@dataclass(frozen=True, repr=False)
class Prediction(_Rows):
    """Class probabilities of a batch with their uncertainty.

    Attributes:
        log_probs: Log-probabilities (N, C), which do not saturate where probabilities round to 1.
        aleatoric: Expected entropy (N,) in nats.

    Example:
        >>> import numpy as np
        >>> from suffice_runtime import Prediction
        >>> prediction = Prediction(np.log([[0.9, 0.1], [0.2, 0.8]]), aleatoric=np.zeros(2))
        >>> prediction.label.tolist()
        [0, 1]
        >>> [round(nats, 2) for nats in prediction.entropy.tolist()]
        [0.33, 0.5]
    """

    kind: ClassVar[str] = "classification"

    log_probs: Array
    aleatoric: Array

    def __repr__(self) -> str:
        """Describe the batch in one line; the fields hold the numbers."""
        return f"Prediction({len(self):,} examples, {self.log_probs.shape[-1]:,} classes)"

    @property
    def probs(self) -> Array:
        """Class probabilities (N, C)."""
        return np.exp(self.log_probs)

    @property
    def label(self) -> Array:
        """Most probable class (N,), int64."""
        return self.log_probs.argmax(axis=-1)

    @property
    def confidence(self) -> Array:
        """Greatest probability (N,)."""
        return np.exp(self.log_probs.max(axis=-1))

    @property
    def log_odds(self) -> Array:
        """Log-odds (N,) of the most probable class, log p − log(1 − p), which do not saturate where p rounds to 1."""
        others = self.log_probs.copy()
        np.put_along_axis(others, self.label[:, None], -np.inf, axis=-1)
        return self.log_probs.max(axis=-1) - _logsumexp(others)

    @property
    def margin(self) -> Array:
        """Difference (N,) of the two greatest log-probabilities."""
        best = np.partition(self.log_probs, -2, axis=-1)[:, -2:]
        return best[:, 1] - best[:, 0]

    @property
    def entropy(self) -> Array:
        """Total uncertainty H[p] (N,) in nats."""
        return entropy(self.log_probs)

    @property
    def epistemic(self) -> Array:
        """Entropy minus aleatoric uncertainty (N,) in nats, at least 0."""
        return np.maximum(self.entropy - self.aleatoric, 0)

    @property
    def soundness(self) -> Array:
        """Value (N,) that is finite where all fields are, so that one check covers them."""
        return np.maximum.reduce(self.log_probs, axis=-1) + self.aleatoric  # faster than .max for few rows


@dataclass(frozen=True, repr=False)
class Multilabel(_Rows):
    """Probabilities of L labels, each present or absent, with their uncertainty.

    Attributes:
        log_probs: Log-probabilities (N, L, 2) that a label is absent and that it is present.
        label_aleatoric: Expected entropy (N, L) of each label in nats.

    Example:
        >>> import numpy as np
        >>> from suffice_runtime import Multilabel
        >>> probs = np.array([[0.9, 0.2, 0.6]])
        >>> prediction = Multilabel(np.log(np.stack([1 - probs, probs], axis=2)), label_aleatoric=np.zeros((1, 3)))
        >>> prediction.label.tolist()
        [[1, 0, 1]]
        >>> round(prediction.confidence.item(), 2)  # the expected share of labels that are right
        0.77
    """

    kind: ClassVar[str] = "multilabel"

    log_probs: Array
    label_aleatoric: Array

    def __repr__(self) -> str:
        """Describe the batch in one line; the fields hold the numbers."""
        return f"Multilabel({len(self):,} examples, {self.log_probs.shape[1]:,} labels)"

    @property
    def probs(self) -> Array:
        """Probability (N, L) that each label is present."""
        return np.exp(self.log_probs[..., 1])

    @property
    def label(self) -> Array:
        """1 for each label with a probability above 1/2, else 0, (N, L) int64."""
        return (self.label_log_odds > 0).astype(np.int64)

    @property
    def label_log_odds(self) -> Array:
        """Log-odds (N, L) that each label is present, log p − log(1 − p)."""
        return self.log_probs[..., 1] - self.log_probs[..., 0]

    @property
    def confidence(self) -> Array:
        """Expected share (N,) of labels that are right, the mean over the labels of max(p, 1 − p)."""
        return np.exp(self.log_probs.max(axis=-1)).mean(axis=-1)

    @property
    def log_odds(self) -> Array:
        """Log-odds (N,) of the expected share of labels that are right, log Σ max(p, 1 − p) − log Σ min(p, 1 − p)."""
        return _logsumexp(self.log_probs.max(axis=-1)) - _logsumexp(self.log_probs.min(axis=-1))

    @property
    def margin(self) -> Array:
        """Difference (N,) of the log-probabilities of the two most probable sets of labels."""
        return (self.log_probs.max(axis=-1) - self.log_probs.min(axis=-1)).min(axis=-1)

    @property
    def label_entropy(self) -> Array:
        """Total uncertainty (N, L) of each label in nats."""
        return entropy(self.log_probs)

    @property
    def label_epistemic(self) -> Array:
        """Entropy minus aleatoric uncertainty (N, L) of each label in nats, at least 0."""
        return np.maximum(self.label_entropy - self.label_aleatoric, 0)

    @property
    def entropy(self) -> Array:
        """Total uncertainty (N,) in nats, the sum over the labels."""
        return self.label_entropy.sum(axis=-1)

    @property
    def aleatoric(self) -> Array:
        """Expected entropy (N,) in nats, the sum over the labels."""
        return self.label_aleatoric.sum(axis=-1)

    @property
    def epistemic(self) -> Array:
        """Epistemic uncertainty (N,) in nats, the sum over the labels, at least 0."""
        return self.label_epistemic.sum(axis=-1)

    @property
    def soundness(self) -> Array:
        """Value (N,) that is finite where all fields are, so that one check covers them."""
        return (self.log_probs.max(axis=-1) + self.label_aleatoric).sum(axis=-1)


@dataclass(frozen=True, repr=False)
class Regression(_Rows):
    """Gaussian predictions of a batch, in the units of the targets.

    Attributes:
        mean: Mean (N, C) of the targets.
        epistemic_variance: Variance (N, C) of the mean.
        noise_variance: Variance (N, C) of a target about its mean.

    Example:
        >>> import numpy as np
        >>> from suffice_runtime import Regression
        >>> one = np.ones((1, 1))
        >>> prediction = Regression(mean=0 * one, epistemic_variance=3 * one, noise_variance=one)
        >>> low, high = prediction.interval(0.95)
        >>> prediction.std.item(), round(high.item(), 2)
        (2.0, 3.92)
    """

    kind: ClassVar[str] = "regression"

    mean: Array
    epistemic_variance: Array
    noise_variance: Array

    def __repr__(self) -> str:
        """Describe the batch in one line; the fields hold the numbers."""
        return f"Regression({len(self):,} examples, {self.mean.shape[-1]:,} outputs)"

    @property
    def variance(self) -> Array:
        """Total variance (N, C) of a target."""
        return self.epistemic_variance + self.noise_variance

    @property
    def std(self) -> Array:
        """Standard deviation (N, C) of a target, in the units of the targets."""
        return np.sqrt(self.variance)

    @property
    def soundness(self) -> Array:
        """Value (N,) that is finite where all fields are, so that one check covers them."""
        return (np.abs(self.mean) + self.variance).max(axis=-1)

    def interval(self, level: float = 0.95) -> tuple[Array, Array]:
        """Compute the central interval that contains a target with probability `level`.

        Returns:
            Lower and upper end, (N, C) each.

        Raises:
            ValueError: Unless 0 < level < 1.
        """
        if not 0 < level < 1:
            raise ValueError(f"expected a level between 0 and 1, got {level}; 0.95 is 95 %")
        half = NormalDist().inv_cdf((1 + level) / 2) * self.std
        return self.mean - half, self.mean + half


AnyPrediction = Prediction | Multilabel | Regression

KINDS: dict[str, type[AnyPrediction]] = {kind.kind: kind for kind in (Prediction, Multilabel, Regression)}
"""Class of the predictions of each kind."""


def concatenate(predictions: Sequence[AnyPrediction]) -> AnyPrediction:
    """Concatenate predictions of one kind along the batch axis."""
    kind = type(predictions[0])
    return kind(*(np.concatenate([getattr(one, name) for one in predictions]) for name in kind.names()))


def entropy(log_probs: Array) -> Array:
    """Compute the entropy −Σ p log p in nats over the last axis; 0 log 0 counts as 0."""
    probs = np.exp(log_probs)
    # Log-probabilities of probabilities that round to 0 may be −inf.
    return -(probs * np.where(probs > 0, log_probs, 0)).sum(axis=-1)


def _logsumexp(values: Array) -> Array:
    """Compute log Σ exp over the last axis; −inf where all values are."""
    top = values.max(axis=-1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(values - top).sum(axis=-1)) + top[..., 0]
