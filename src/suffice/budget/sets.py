"""Prediction sets of answers, by split conformal prediction at the exit that gave the answer.

An example of exit k with target y has a nonconformity score s. Let t_k be the ⌈(n + 1)(1 − α)⌉-th smallest of the n
scores of calibration examples that stopped at exit k too. For exchangeable examples the set of all targets with
s ≤ t_k contains the true one with probability 1 − α or more among the answers of exit k (Mondrian; Vovk et al. 2005),
hence over all answers. With p the probabilities in falling order, r the rank of y from 1, u in [0, 1):

    lac        1 − p_r                                           Sadinle et al. 2019; smallest sets on average
    aps        p_1 + … + p_{r−1} + u p_r                         Romano et al. 2020; larger where the example is hard
    raps       as aps, + penalty · max(0, r − unpenalized)       Angelopoulos et al. 2021; fewer improbable labels
    interval   max_c |y_c − mean_c| / std_c                      a regression; all outputs together

Without randomization u = 0, so that a set of aps or raps holds the most probable label at least. With it u is computed
from the bytes of the example (`suffice.budget.coin`), coverage is 1 − α up to 1/(n + 1), and a set may be empty.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from suffice.budget.coin import redraw
from suffice.storage.parts import INSIDE, NOT_NEGATIVE, Parts
from suffice.storage.serializable import Serializable
from suffice.utils import arguments, checks

Method = Literal["lac", "aps", "raps", "interval"]

_OF_LABELS: tuple[Method, ...] = ("aps", "lac", "raps")
METHODS: dict[str, tuple[Method, ...]] = {
    "classification": _OF_LABELS,
    "binary": _OF_LABELS,
    "regression": ("interval",),
    "heteroscedastic": ("interval",),
}
"""Methods for each likelihood that has prediction sets, the default first."""


def check_method(method: str, likelihood: str) -> None:
    """Raise a ValueError unless a method applies to the predictions of a likelihood."""
    if likelihood not in METHODS:
        raise ValueError(
            f"expected a likelihood with prediction sets, one of {list(METHODS)}, got {likelihood!r}; "
            "suffice.control_risk bounds the loss of several labels"
        )
    if method not in METHODS[likelihood]:
        raise ValueError(f"expected method to be one of {METHODS[likelihood]} for a {likelihood}, got {method!r}")


@dataclass(frozen=True)
class LabelSets:
    """Sets of labels, one per example.

    Attributes:
        members: Whether each label is in the set, (N, C) bool.
        coverage: Probability with which a set contains the true label.
    """

    members: Tensor
    coverage: float

    def __repr__(self) -> str:
        """Describe the sets in one line."""
        size = f", {float(self.size.double().mean()):.2f} labels each" if len(self) else ""
        return f"LabelSets({len(self):,} examples, coverage {self.coverage:g}{size})"

    @property
    def size(self) -> Tensor:
        """Number of labels (N,), int64."""
        return self.members.sum(dim=1)

    def contains(self, labels: Tensor) -> Tensor:
        """Return whether each set contains its label, (N,) bool, for labels (N,) of any integer type.

        Raises:
            ValueError: For labels of another shape, or that are not integers in [0, C).
        """
        return self.members.gather(1, checks.labeled(self.members, labels)[:, None])[:, 0]

    def labels(self) -> list[list[int]]:
        """Return the labels of each set, rising."""
        return [row.nonzero()[:, 0].tolist() for row in self.members.cpu()]

    def __len__(self) -> int:
        """Number of examples N."""
        return len(self.members)


@dataclass(frozen=True)
class Intervals:
    """Intervals of numbers, one per example and output, for all outputs of an example together.

    Attributes:
        low: Lower ends (N, C), float64.
        high: Upper ends (N, C), float64.
        coverage: Probability with which the intervals of an example contain all its targets.
    """

    low: Tensor
    high: Tensor
    coverage: float

    def __repr__(self) -> str:
        """Describe the intervals in one line."""
        return f"Intervals({len(self):,} examples, {self.low.shape[1]:,} outputs, coverage {self.coverage:g})"

    @property
    def size(self) -> Tensor:
        """Mean width over the outputs (N,), float64, in the units of the targets."""
        return (self.high - self.low).mean(dim=1)

    def contains(self, targets: Tensor) -> Tensor:
        """Return whether the intervals of each example contain all its targets (N, C), or (N,) where C = 1; (N,) bool.

        Raises:
            ValueError: For targets of another shape, or NaN.
        """
        if targets.shape not in (self.low.shape, self.low.shape[:1] if self.low.shape[1] == 1 else None):
            raise ValueError(f"expected targets of shape {tuple(self.low.shape)}, got {tuple(targets.shape)}")
        wide = targets.reshape(self.low.shape).double()
        if bool(wide.isnan().any()):
            raise ValueError("expected numbers as targets, got NaN; remove examples without a target")
        return ((self.low <= wide) & (wide <= self.high)).all(dim=1)

    def __len__(self) -> int:
        """Number of examples N."""
        return len(self.low)


@dataclass(frozen=True)
class SetRule(Serializable):
    """Rule by which an answer gets its prediction set, made by `suffice.conformalize`.

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

    storage_dtype: ClassVar[torch.dtype | None] = torch.float64

    thresholds: Tensor
    method: Method
    coverage: float
    by_exit: bool
    counts: tuple[int, ...]
    randomized: bool = False
    penalty: float = 0.01
    unpenalized: int = 5

    def scores(self, prediction: Any, targets: Tensor, coin: Tensor | None) -> Tensor:
        """Compute the nonconformity scores (N,) of true targets under a prediction, float64.

        Args:
            prediction: Prediction of N examples.
            targets: Labels (N,), int64, or targets (N, C).
            coin: Number (N,) in [0, 1) of each example; needed if `randomized`.
        """
        if self.method == "interval":
            errors: Tensor = (targets - prediction.mean.double()).abs()
            return (errors / _scale(prediction)).amax(dim=1)
        return self._label_scores(prediction.log_probs, coin).gather(1, targets[:, None])[:, 0]

    def sets(self, prediction: Any, exit_index: Tensor, coin: Tensor | None) -> LabelSets | Intervals:
        """Return the prediction sets of answers.

        Args:
            prediction: Prediction of N examples, each of the exit where it stopped.
            exit_index: Number (N,) of that exit.
            coin: Number (N,) in [0, 1) of each example; needed if `randomized`.
        """
        limits = self.thresholds.to(exit_index.device)[exit_index][:, None]
        if self.method == "interval":
            mean, half = prediction.mean.double(), limits * _scale(prediction)
            return Intervals(mean - half, mean + half, self.coverage)
        return LabelSets(self._label_scores(prediction.log_probs, coin) <= limits, self.coverage)

    def _label_scores(self, log_probs: Tensor, coin: Tensor | None) -> Tensor:
        """Compute the nonconformity score of every label, (N, C) float64."""
        if self.method == "lac":
            return -log_probs.double().expm1()
        probs, order = log_probs.double().exp().sort(dim=1, descending=True, stable=True)
        before = torch.nn.functional.pad(probs.cumsum(dim=1)[:, :-1], (1, 0))
        if self.randomized:
            assert coin is not None
            before = before + redraw(coin)[:, None] * probs
        if self.method == "raps":
            extra = torch.arange(1, probs.shape[1] + 1, dtype=probs.dtype, device=probs.device) - self.unpenalized
            before = before + self.penalty * extra.clamp_min(0)
        return torch.empty_like(before).scatter_(1, order, before)

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the configuration and the tensors of an artifact."""
        configuration = {
            "method": self.method,
            "coverage": self.coverage,
            "by_exit": self.by_exit,
            "counts": list(self.counts),
            "randomized": self.randomized,
            "penalty": self.penalty,
            "unpenalized": self.unpenalized,
        }
        return configuration, {"thresholds": self.thresholds}

    @classmethod
    def from_parts(cls, parts: Parts) -> "SetRule":
        """Restore a rule from the parts of an artifact."""
        thresholds = parts.tensor("thresholds", "K", NOT_NEGATIVE, also=(math.inf,), dtype=torch.float64)
        return cls(
            thresholds,
            parts.choice("method", get_args(Method)),
            parts.number("coverage", INSIDE),
            parts.choice("by_exit", (True, False)),
            parts.counts("counts", len(thresholds)),
            parts.choice("randomized", (True, False)),
            parts.number("penalty", NOT_NEGATIVE),
            parts.count("unpenalized"),
        )


def _scale(prediction: Any) -> Tensor:
    """Return the standard deviation (N, C) of a regression, float64 and positive."""
    std: Tensor = prediction.variance.double().sqrt()
    return std.clamp_min(torch.finfo(std.dtype).tiny)


def check_coverage(coverage: float) -> None:
    """Raise an error unless a coverage is a number between 0 and 1."""
    if not 0 < arguments.number("a coverage", coverage, "a number between 0 and 1") < 1:
        raise ValueError(f"expected a coverage between 0 and 1, got {coverage!r}; 0.9 is 90 %")


def examples_needed(coverage: float) -> int:
    """Return the least number of calibration examples from which a coverage can be guaranteed, ⌈1/α⌉ − 1.

    Example:
        >>> from suffice.budget.sets import examples_needed
        >>> examples_needed(0.9), examples_needed(0.95), examples_needed(0.99)
        (9, 19, 99)
    """
    stated = _exact(coverage)
    return math.ceil(stated / (1 - stated))


def quantile(scores: Tensor, coverage: float) -> float:
    """Return the ⌈(n + 1)(1 − α)⌉-th smallest of n scores.

    Raises:
        ValueError: If n is below `examples_needed(coverage)`.
    """
    rank = math.ceil((len(scores) + 1) * _exact(coverage))
    if rank > len(scores):
        raise ValueError(
            f"expected at least {examples_needed(coverage)} calibration examples for a coverage of {coverage:g}, got "
            f"{len(scores)}"
        )
    return float(scores.sort().values[rank - 1])


def _exact(coverage: float) -> Fraction:
    """Return a coverage as it is written in decimals: 0.9 is 9/10, which its binary number is not."""
    return Fraction(repr(float(coverage)))
