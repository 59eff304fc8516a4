"""Prediction sets of answers, by split conformal prediction at the exit that gave the answer.

The counterpart of `suffice.budget.sets`: the rule was fitted by `suffice.conformalize`, and is applied here. The set of
an example of exit k holds all targets whose nonconformity score does not exceed the threshold t_k. With p the
probabilities in falling order, r the rank of a label from 1, u in [0, 1):

    lac        1 − p_r                                           Sadinle et al. 2019
    aps        p_1 + … + p_{r−1} + u p_r                         Romano et al. 2020
    raps       as aps, + penalty · max(0, r − unpenalized)       Angelopoulos et al. 2021
    interval   max_c |y_c − mean_c| / std_c                      a regression; all outputs together

Without randomization u = 0; with it u is computed from the coin of the example.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suffice_runtime.bundle.entries import Entries
from suffice_runtime.coin import redraw
from suffice_runtime.prediction import AnyPrediction, Prediction, Regression

Array = NDArray[Any]
Floats = NDArray[np.float64]

_METHODS = ("lac", "aps", "raps", "interval")


@dataclass(frozen=True, repr=False)
class LabelSets:
    """Sets of labels, one per example.

    Attributes:
        members: Whether each label is in the set, (N, C) bool.
        coverage: Probability with which a set contains the true label.
    """

    members: NDArray[np.bool_]
    coverage: float

    def __repr__(self) -> str:
        """Describe the sets in one line."""
        size = f", {self.size.mean():.2f} labels each" if len(self) else ""
        return f"LabelSets({len(self):,} examples, coverage {self.coverage:g}{size})"

    @property
    def size(self) -> NDArray[np.int64]:
        """Number of labels (N,), int64."""
        return self.members.sum(axis=1)

    def labels(self) -> list[list[int]]:
        """Return the labels of each set, rising."""
        return [row.nonzero()[0].tolist() for row in self.members]

    def __len__(self) -> int:
        """Number of examples N."""
        return len(self.members)


@dataclass(frozen=True, repr=False)
class Intervals:
    """Intervals of numbers, one per example and output, for all outputs of an example together.

    Attributes:
        low: Lower ends (N, C), float64.
        high: Upper ends (N, C), float64.
        coverage: Probability with which the intervals of an example contain all its targets.
    """

    low: Floats
    high: Floats
    coverage: float

    def __repr__(self) -> str:
        """Describe the intervals in one line."""
        return f"Intervals({len(self):,} examples, {self.low.shape[1]:,} outputs, coverage {self.coverage:g})"

    @property
    def size(self) -> Floats:
        """Mean width over the outputs (N,), float64, in the units of the targets."""
        return (self.high - self.low).mean(axis=1)

    def __len__(self) -> int:
        """Number of examples N."""
        return len(self.low)


@dataclass(frozen=True)
class SetRule:
    """Rule by which an answer gets its prediction set.

    Attributes:
        thresholds: Largest score (K,) in the sets of each exit, float64; +inf at an exit where nothing stops.
        method: Nonconformity score, one of those above.
        coverage: Stated coverage 1 − α.
        by_exit: True if the coverage holds among the answers of each exit, False if only over all.
        counts: Number of calibration examples that stopped at each exit.
        randomized: Whether u is drawn for each example, instead of 0.
        penalty: Penalty of "raps" per rank.
        unpenalized: Number of most probable labels without a penalty in "raps".
    """

    thresholds: Floats
    method: str
    coverage: float
    by_exit: bool
    counts: tuple[int, ...]
    randomized: bool = False
    penalty: float = 0.01
    unpenalized: int = 5

    @classmethod
    def from_entries(cls, entries: Entries, exits: int) -> "SetRule":
        """Read the rule of a manifest, for K exits."""
        thresholds = entries.numbers("thresholds", exits)
        if (thresholds < 0).any():
            raise entries.refuse("thresholds", "as numbers of at least 0", thresholds.tolist())
        return cls(
            thresholds,
            entries.choice("method", _METHODS),
            entries.number("coverage", 0, 1),
            entries.flag("by_exit"),
            entries.wholes("counts", exits),
            entries.flag("randomized"),
            entries.number("penalty", 0, math.inf),
            entries.whole("unpenalized"),
        )

    def applies_to(self, kind: type[AnyPrediction]) -> bool:
        """Return whether the rule can be used with predictions of a class."""
        return kind is (Regression if self.method == "interval" else Prediction)

    def sets(self, prediction: Any, exit_index: NDArray[np.int64], coin: Floats | None) -> LabelSets | Intervals:
        """Return the prediction sets of answers.

        Args:
            prediction: Prediction of N examples, each of the exit where it stopped.
            exit_index: Number (N,) of that exit.
            coin: Number (N,) in [0, 1) of each example; needed if `randomized`.
        """
        limits = self.thresholds[exit_index][:, None]
        if self.method == "interval":
            std = np.sqrt(prediction.variance.astype(np.float64))
            mean, half = prediction.mean.astype(np.float64), limits * np.maximum(std, np.finfo(np.float64).tiny)
            return Intervals(mean - half, mean + half, self.coverage)
        return LabelSets(self._label_scores(prediction.log_probs, coin) <= limits, self.coverage)

    def _label_scores(self, log_probs: Array, coin: Floats | None) -> Floats:
        """Compute the nonconformity score of every label, (N, C) float64."""
        wide = log_probs.astype(np.float64)
        if self.method == "lac":
            return -np.expm1(wide)
        probs = np.exp(wide)
        order = np.argsort(-probs, axis=1, kind="stable")
        probs = np.take_along_axis(probs, order, axis=1)
        before = np.cumsum(probs, axis=1)
        before = np.concatenate([np.zeros_like(before[:, :1]), before[:, :-1]], axis=1)
        if self.randomized:
            assert coin is not None
            before = before + redraw(coin)[:, None] * probs
        if self.method == "raps":
            extra = np.arange(1, probs.shape[1] + 1, dtype=np.float64) - self.unpenalized
            before = before + self.penalty * np.maximum(extra, 0)
        scores = np.empty_like(before)
        np.put_along_axis(scores, order, before, axis=1)
        return scores
