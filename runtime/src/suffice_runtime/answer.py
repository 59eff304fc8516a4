"""Answers: the predictions of a batch under a policy, with the exit and the cost of each example."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suffice_runtime.prediction import AnyPrediction
from suffice_runtime.sets import Intervals, LabelSets

Array = NDArray[Any]


@dataclass(frozen=True, repr=False)
class Answer:
    """Predictions of a batch under a policy, in the order of its examples. The counterpart of `suffice.Answer`.

    Attributes:
        prediction: Prediction of the exit where each example stopped, a `Prediction`, a `Multilabel` or a
            `Regression`. Its properties are available on the answer too.
        exit: Number of that exit (N,), int64, counted from 0.
        costs: Cumulative multiply-adds of an example that stops at each exit (K), for the shape of these inputs; None
            if the bundle does not hold them for this number of tokens.
        scores: Scores (N, K − 1) at the exits up to this one, but never at the last exit of the network, float64; NaN
            elsewhere.
        set: Prediction set of each example, if the policy has a rule for them, else None.
    """

    prediction: AnyPrediction
    exit: NDArray[np.int64]
    costs: Sequence[int] | None
    scores: NDArray[np.float64]
    set: LabelSets | Intervals | None = None

    def __repr__(self) -> str:
        """Describe in one line how many examples stopped at which exit, and their mean cost."""
        exits, counts = np.unique(self.exit, return_counts=True)
        stopped = ", ".join(f"{count:,} at exit {k}" for k, count in zip(exits, counts, strict=True))
        mean = f", {self.macs.mean():,.0f} multiply-adds each" if len(exits) and self.costs is not None else ""
        return f"Answer({len(self.exit):,} examples{': ' if stopped else ''}{stopped}{mean})"

    @property
    def macs(self) -> NDArray[np.int64]:
        """Multiply-adds spent on each example (N,), including those of the uncertainty and of padding, int64.

        Raises:
            ValueError: If the bundle does not hold the costs of inputs with this number of tokens.
        """
        if self.costs is None:
            raise ValueError(
                "expected costs for inputs with this number of tokens, but the bundle holds them for the length of its "
                "example only; export it again with an example of this length"
            )
        return np.array(self.costs, dtype=np.int64)[self.exit]

    @property
    def probs(self) -> Array:
        """Probabilities (N, C) of the classes, or of each label."""
        return self._field("probs")

    @property
    def label(self) -> Array:
        """Most probable class (N,), or 0 or 1 for each label (N, L), int64."""
        return self._field("label")

    @property
    def confidence(self) -> Array:
        """Greatest probability (N,), or the expected share of labels that are right."""
        return self._field("confidence")

    @property
    def entropy(self) -> Array:
        """Total uncertainty (N,) in nats."""
        return self._field("entropy")

    @property
    def aleatoric(self) -> Array:
        """Expected entropy (N,) in nats."""
        return self._field("aleatoric")

    @property
    def epistemic(self) -> Array:
        """Entropy minus aleatoric uncertainty (N,) in nats."""
        return self._field("epistemic")

    @property
    def mean(self) -> Array:
        """Mean (N, C) of a regression."""
        return self._field("mean")

    @property
    def variance(self) -> Array:
        """Total variance (N, C) of a regression."""
        return self._field("variance")

    def __len__(self) -> int:
        """Number of examples N."""
        return len(self.exit)

    def _field(self, name: str) -> Array:
        """Return a field of the prediction, or raise an AttributeError that names the fields of its kind."""
        try:
            values: Array = getattr(self.prediction, name)
        except AttributeError as error:
            kind = self.prediction.kind
            raise AttributeError(f"expected an answer with {name!r}, got a {kind}; use its {_FIELDS[kind]}") from error
        return values


_FIELDS = {"classification": "probs", "multilabel": "probs", "regression": "mean and variance"}
