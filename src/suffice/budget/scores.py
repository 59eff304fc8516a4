"""Scores: functions `(prediction, state) -> (N,)` of a batch at an exit, higher meaning surer.

A policy compares a score with a threshold at each exit. Built-in scores go by name; any function of the same
form will do, and sees the state as well, for example to estimate the dropout variation from it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from suffice.network import State
from suffice.prediction import Prediction

Score = Callable[[Prediction, State], Tensor]


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


def epistemic(prediction: Prediction, state: State = None) -> Tensor:
    """Negative epistemic uncertainty, in nats."""
    return -prediction.epistemic


SCORES: dict[str, Score] = {
    function.__name__: function for function in (confidence, margin, entropy, aleatoric, epistemic)
}


def resolve(score: str | Score) -> Score:
    """The score of a name, or the function itself.

    Raises:
        ValueError: for a name that is not one of the built-in scores.
    """
    if callable(score):
        return score
    if score not in SCORES:
        raise ValueError(f"expected one of {sorted(SCORES)} or a function (prediction, state), got {score!r}")
    return SCORES[score]


def evaluate(score: Score, prediction: Prediction, state: State, k: int) -> Tensor:
    """Scores (N,) of a batch at exit k, float64, finite and checked; infinities become the extreme numbers.

    Raises:
        ValueError: for a score that is not (N,) or not a number.
    """
    values = score(prediction, state)
    if values.shape != (len(prediction),):
        raise ValueError(f"expected scores of shape ({len(prediction)},) at exit {k}, got {tuple(values.shape)}")
    if bool(values.isnan().any()):
        position = int(values.isnan().nonzero()[0])
        raise ValueError(f"expected a number as every score at exit {k}, got NaN at position {position}")
    return values.double().nan_to_num()
