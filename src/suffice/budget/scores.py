"""Scores: functions `(prediction, state) -> (N,)` of a batch at an exit, higher meaning surer.

A policy compares a score with a threshold at each exit. Built-in scores go by name; any function of the same
form will do, and sees the state as well, for example to estimate the dropout variation from it.
"""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from suffice.network import State
from suffice.prediction import AnyPrediction, Prediction, Regression

Score = Callable[[Any, State], Tensor]


@runtime_checkable
class ExitScore(Protocol):
    """A score that is another function at each exit, and has a cost of its own."""

    @property
    def made_for(self) -> str:
        """`digest` of the calibrated network that it is a score of."""

    @property
    def macs(self) -> tuple[int, ...]:
        """Multiply-adds per example at each exit, beyond those of the network and its uncertainty."""

    def at(self, k: int) -> Score:
        """The score of exit k."""


AnyScore = Score | ExitScore


def confidence(prediction: Prediction, state: State = None) -> Tensor:
    """Log-odds of the most probable class, log p − log(1 − p).

    The same order as its probability, but it does not saturate at 1, where overconfident networks tie.
    """
    top, rest = prediction.log_probs.max(dim=-1)
    others = prediction.log_probs.scatter(-1, rest[:, None], -torch.inf)
    return top - others.logsumexp(dim=-1)


def margin(prediction: Prediction, state: State = None) -> Tensor:
    """Difference of the two greatest log-probabilities."""
    best = prediction.log_probs.topk(2, dim=-1).values
    return best[:, 0] - best[:, 1]


def entropy(prediction: Prediction, state: State = None) -> Tensor:
    """Negative total uncertainty, in nats."""
    return -prediction.entropy


def aleatoric(prediction: Prediction, state: State = None) -> Tensor:
    """Negative aleatoric uncertainty, in nats."""
    return -prediction.aleatoric


def epistemic(prediction: AnyPrediction, state: State = None) -> Tensor:
    """Negative epistemic uncertainty, in nats; of a regression, as `variance` but of the epistemic part alone."""
    if isinstance(prediction, Regression):
        return -prediction.epistemic_variance.log().mean(dim=-1)
    return -prediction.epistemic


def variance(prediction: Regression, state: State = None) -> Tensor:
    """Negative mean over the outputs of the log-variance.

    The order of the Gaussian's entropy, and the same in whatever units the outputs are: of summed variances the output
    in the smallest unit would decide.
    """
    return -prediction.variance.log().mean(dim=-1)


def patience(prediction: Prediction, state: State = None) -> Tensor:
    """How many exits in a row, up to and with this one, gave the same label; at the last exit at most K.

    Zhou et al. 2020 (patience-based early exit). Many examples tie: a budget is then met by mixing policies.

    Raises:
        ValueError: for a prediction that nobody counted for, made otherwise than by a calibrated network.
    """
    if prediction.agreeing is None:
        raise ValueError("expected a prediction with the exits that agree counted, got one without; ask a Calibrated")
    return prediction.agreeing


SCORES: dict[str, Score] = {
    function.__name__: function for function in (confidence, margin, entropy, aleatoric, epistemic, patience, variance)
}

_KINDS: dict[str, type] = dict.fromkeys(SCORES, Prediction) | {"variance": Regression, "epistemic": object}
"""What each of them is a score of."""

FORGETFUL = frozenset(SCORES.values()) - {patience}
"""Scores that do not look at the exits before."""


def levels(score: str | AnyScore, classes: int, exits: int, count: int = 100) -> Tensor:
    """Thresholds of a score from safest to boldest, (L,) float64, chosen without a look at any data.

    Evenly spaced log-odds down to those of 1/C, margins down to 0, or powers of ten of an uncertainty up to log C.

    Raises:
        ValueError: for a function or a variance, whose scale is not known.
    """
    if score in ("confidence", "margin"):
        return torch.linspace(12, -math.log(classes - 1) if score == "confidence" else 0, count, dtype=torch.float64)
    if score in ("entropy", "aleatoric", "epistemic"):
        return -math.log(classes) * torch.logspace(-6, 0, count, dtype=torch.float64)
    if score == "patience":
        return torch.arange(exits, 0, -1, dtype=torch.float64)
    resolve(score)
    raise ValueError(f"expected levels for the score {score!r}, got none; pass levels, chosen without val_loader")


def resolve(score: str | AnyScore, made_for: str | None = None) -> AnyScore:
    """The score of a name, or what is a score itself.

    Args:
        score: a name or a score.
        made_for: `digest` of the calibrated network that it is to be used with; None leaves that unchecked.

    Raises:
        ValueError: for a name that is not one of the built-in scores, or a score of another network.
    """
    if not isinstance(score, str):
        if isinstance(score, ExitScore) and made_for not in (None, score.made_for):
            raise ValueError(
                f"expected a score of this calibrated network ({made_for[:12]}…), got one of another "
                f"({score.made_for[:12]}…); fit it again for this one"
            )
        return score
    if score not in SCORES:
        raise ValueError(f"expected one of {sorted(SCORES)} or a function (prediction, state), got {score!r}")
    return SCORES[score]


def priced(cumulative: Sequence[int], score: str | AnyScore) -> tuple[int, ...]:
    """Cumulative costs of answering at each exit with those of the score, which is not asked at the last."""
    if not isinstance(score, ExitScore):
        return tuple(cumulative)
    own = accumulate([*score.macs[:-1], 0])
    return tuple(map(sum, zip(cumulative, own, strict=True)))


def evaluate(
    score: AnyScore, prediction: AnyPrediction, state: State, k: int, positions: Tensor | None = None
) -> Tensor:
    """Scores (N,) of a batch at exit k, float64, finite and checked; infinities become the extreme numbers.

    Args:
        score: a function, higher is surer, or one for each exit.
        prediction: of the batch.
        state: of the batch.
        k: the exit, for messages.
        positions: (N,), where each row was in the whole pass; rows at −1 are no example's and are not checked.

    Raises:
        ValueError: for a score that is not (N,) or not a number, or a named score of another kind of prediction.
    """
    function = score.at(k) if isinstance(score, ExitScore) else score
    _check_kind(function, prediction)
    values = function(prediction, state)
    if values.shape != (len(prediction),):
        raise ValueError(f"expected scores of shape ({len(prediction)},) at exit {k}, got {tuple(values.shape)}")
    if math.isfinite(float(values.sum())):
        return values.double()
    if bool(values.isnan().any()):
        positions = torch.arange(len(values), device=values.device) if positions is None else positions
        unsaid = positions[values.isnan() & (positions >= 0)]
        if len(unsaid):
            raise ValueError(f"expected a number as every score at exit {k}, got NaN at position {int(unsaid.min())}")
    return values.double().nan_to_num()


def _check_kind(score: Score, prediction: AnyPrediction) -> None:
    """Raise a ValueError for a built-in score of the other kind of prediction."""
    name = next((name for name, known in SCORES.items() if known is score), None)
    if name is None or isinstance(prediction, _KINDS[name]):
        return
    names = sorted(other for other, kind in _KINDS.items() if isinstance(prediction, kind))
    raise ValueError(
        f"expected a score of a {type(prediction).__name__}, one of {names}, or a function (prediction, state), "
        f"got {name!r}, which is of a {_KINDS[name].__name__}"
    )
