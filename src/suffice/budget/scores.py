"""Scores: functions `(prediction, state) -> (N,)` of a batch at an exit, higher meaning more certain.

A policy compares a score with a threshold at each exit. Built-in scores have names. Any function of the same form is a
score too; it also receives the state, for example to estimate the dropout variation from it.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from suffice.network import State
from suffice.prediction import AnyPrediction, Multilabel, Prediction, Regression

Score = Callable[[Any, State], Tensor]


@runtime_checkable
class ExitScore(Protocol):
    """Score that is a different function at each exit and has a cost of its own."""

    @property
    def made_for(self) -> str:
        """Digest of the calibrated network that the score was fitted to."""

    @property
    def macs(self) -> tuple[int, ...]:
        """Multiply-adds per example at each exit, beyond those of the network and its uncertainty."""

    def at(self, k: int) -> Score:
        """Return the score of exit k."""


AnyScore = Score | ExitScore


def confidence(prediction: Prediction | Multilabel, state: State = None) -> Tensor:
    """Compute the log-odds of the most probable class, log p − log(1 − p); see `Prediction.log_odds`.

    For several labels they are those of the expected share of labels that are right; see `Multilabel.log_odds`.
    """
    return prediction.log_odds


def margin(prediction: Prediction | Multilabel, state: State = None) -> Tensor:
    """Compute the difference of the two greatest log-probabilities, of classes or of sets of labels."""
    return prediction.margin


def entropy(prediction: Prediction | Multilabel, state: State = None) -> Tensor:
    """Compute the negative total uncertainty, in nats."""
    return -prediction.entropy


def aleatoric(prediction: Prediction | Multilabel, state: State = None) -> Tensor:
    """Compute the negative aleatoric uncertainty, in nats."""
    return -prediction.aleatoric


def epistemic(prediction: AnyPrediction, state: State = None) -> Tensor:
    """Compute the negative epistemic uncertainty: in nats for classes, the mean log-variance for regression."""
    return prediction.epistemic_score


def variance(prediction: Regression, state: State = None) -> Tensor:
    """Compute the negative mean over the outputs of the log-variance; see `Regression.default_score`."""
    return prediction.default_score


def patience(prediction: Prediction | Multilabel, state: State = None) -> Tensor:
    """Return the number of exits in a row, up to and including this one, with the same label; at most K.

    Several labels have to be the same all together.

    Zhou et al. 2020 (patience-based early exit). Many examples tie, so that a budget is met by a mixed policy.

    Raises:
        ValueError: For a prediction without this count, as those not made by a calibrated network are.
    """
    if prediction.agreeing is None:
        raise ValueError(
            "expected a prediction with the agreeing exits counted, got one without; use those of a calibrated network"
        )
    return prediction.agreeing


SCORES: dict[str, Score] = {
    function.__name__: function for function in (confidence, margin, entropy, aleatoric, epistemic, patience, variance)
}
"""Built-in scores by name."""

MEMORYLESS = frozenset(SCORES.values()) - {patience}
"""Built-in scores that do not depend on earlier exits."""


def needs_streak(score: AnyScore) -> bool:
    """Return whether a score may need the number of exits in a row with the same label; any function may."""
    return score not in MEMORYLESS


def levels(score: str | AnyScore, num_classes: int, num_exits: int, count: int = 100, num_labels: int = 1) -> Tensor:
    """Return candidate thresholds of a score, from conservative to permissive, that do not depend on any data.

    They are evenly spaced log-odds down to those of 1/C, margins down to 0, or powers of ten of an uncertainty up to
    log C, times the number of labels.

    Args:
        score: Name of a built-in score.
        num_classes: Number of classes C; 2 for labels that are present or absent.
        num_exits: Number of exits K.
        count: Number of levels L, except for "patience".
        num_labels: Number of labels of an example; 1 for classes.

    Returns:
        Thresholds (L,), float64, falling.

    Raises:
        ValueError: For a function or a variance, which have no known scale.
    """
    if score in ("confidence", "margin"):
        least = -math.log(num_classes - 1) if score == "confidence" else 0
        return torch.linspace(12, least, count, dtype=torch.float64)
    if score in ("entropy", "aleatoric", "epistemic"):
        return -num_labels * math.log(num_classes) * torch.logspace(-6, 0, count, dtype=torch.float64)
    if score == "patience":
        return torch.arange(num_exits, 0, -1, dtype=torch.float64)
    resolve(score)
    raise ValueError(f"expected levels for the score {score!r}, got none; pass levels, chosen without val_loader")


def resolve(score: str | AnyScore, made_for: str | None = None) -> AnyScore:
    """Return the built-in score of a name, or a score itself.

    Args:
        score: Name or score.
        made_for: Digest of the calibrated network that the score is used with; None skips this check.

    Raises:
        TypeError: For an object that is no score, or a function that does not accept `(prediction, state)`.
        ValueError: For a name that is not one of the built-in scores, or a score fitted to another network.
    """
    if not isinstance(score, str):
        _check_signature(score)
        if isinstance(score, ExitScore) and made_for not in (None, score.made_for):
            raise ValueError(
                f"expected a score of this calibrated network ({made_for[:12]}…), got one of another "
                f"({score.made_for[:12]}…); fit it again for this one"
            )
        return score
    if score not in SCORES:
        raise ValueError(f"expected one of {sorted(SCORES)} or a function (prediction, state), got {score!r}")
    return SCORES[score]


def _check_signature(score: object) -> None:
    """Raise a TypeError unless a score has one function per exit or can be called with a prediction and a state."""
    if isinstance(score, ExitScore):
        return
    if not callable(score):
        raise TypeError(f"expected a score by name or a function (prediction, state), got {type(score).__name__}")
    try:
        inspect.signature(score).bind(None, None)
    except TypeError as error:
        raise TypeError(f"expected a score that accepts (prediction, state), got a function with {error}") from error
    except ValueError:
        return  # Some built-in functions have no signature.


def priced(cumulative: Sequence[int], score: str | AnyScore) -> tuple[int, ...]:
    """Add the cost of the score to the cumulative costs of the exits; the last exit needs no score."""
    if not isinstance(score, ExitScore):
        return tuple(cumulative)
    score_costs = accumulate([*score.macs[:-1], 0])
    return tuple(map(sum, zip(cumulative, score_costs, strict=True)))


def evaluate(
    score: AnyScore, prediction: AnyPrediction, state: State, k: int, positions: Tensor | None = None
) -> Tensor:
    """Compute the checked scores (N,) of a batch at exit k, float64; infinities become the largest finite numbers.

    Args:
        score: Function, or one function per exit; higher means more certain.
        prediction: Prediction of the batch at exit k.
        state: State of the batch behind stage k.
        k: Number of the exit, counted from 0.
        positions: Position (N,) of each row in the whole pass; rows at −1 are padding and are not checked.

    Raises:
        TypeError: For scores that are not a tensor.
        ValueError: For scores that are not of shape (N,) or NaN, or a built-in score of another kind of prediction.
    """
    function = score.at(k) if isinstance(score, ExitScore) else score
    _check_kind(function, prediction)
    values = function(prediction, state)
    if not isinstance(values, Tensor):
        raise TypeError(f"expected a tensor of scores from the score at exit {k}, got {type(values).__name__}")
    if values.shape != (len(prediction),):
        raise ValueError(f"expected scores of shape ({len(prediction)},) at exit {k}, got {tuple(values.shape)}")
    if math.isfinite(float(values.sum())):
        return values.double()
    if bool(values.isnan().any()):
        positions = torch.arange(len(values), device=values.device) if positions is None else positions
        nan_positions = positions[values.isnan() & (positions >= 0)]
        if len(nan_positions):
            raise ValueError(
                f"expected a number as every score at exit {k}, got NaN at position {int(nan_positions.min())}"
            )
    return values.double().nan_to_num()


def _check_kind(score: Score, prediction: AnyPrediction) -> None:
    """Raise a ValueError for a built-in score that does not apply to this kind of prediction."""
    name = next((name for name, function in SCORES.items() if function is score), None)
    if name is None or name in prediction.score_names:
        return
    other = next(kind for kind in (Prediction, Multilabel, Regression) if name in kind.score_names)
    raise ValueError(
        f"expected a score of a {type(prediction).__name__}, one of {sorted(prediction.score_names)}, or a function "
        f"(prediction, state), got {name!r}, which is of a {other.__name__}"
    )
