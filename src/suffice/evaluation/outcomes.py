"""Predictions of every exit for a whole labelled set, made once, and their measures."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from suffice import metrics
from suffice.batches import Loader
from suffice.budget import scores
from suffice.calibration import likelihoods
from suffice.calibration.calibrated import Calibrated
from suffice.prediction import AnyPrediction, Regression, concatenate, kept

MEASURES = ("accuracy", "top5", "nll", "brier", "ece", "ece_equal_mass", "auroc", "aurc")
"""Of classes."""

REGRESSION_MEASURES = ("rmse", "nll", "crps", "coverage_95")
"""Of a regression: root mean squared error, nats, CRPS, share of targets within the 95 % intervals."""


@dataclass(frozen=True)
class Outcome:
    """A labelled set at every exit, on the CPU.

    Attributes:
        predictions: K predictions of N examples, without their members.
        labels: (N,), or targets (N, C).
        scores: K scores (N,) float64, higher is surer.
    """

    predictions: list[Any]
    labels: Tensor
    scores: list[Tensor]

    @property
    def hits(self) -> list[Tensor]:
        """Whether each exit's answer is right, K × (N,) bool; of classes."""
        return [metrics.correct(prediction.log_probs, self.labels) for prediction in self.predictions]


def predict(calibrated: Calibrated, loader: Loader) -> Outcome:
    """Predictions of every exit for a whole labelled loader, read once, and their scores: confidence, or `variance`."""
    read = list(likelihoods.read(loader, calibrated.network, calibrated.likelihood))
    parts = [[kept(prediction) for prediction in calibrated(batch.inputs)] for batch, _ in read]
    predictions = [concatenate(list(exit_)) for exit_ in zip(*parts, strict=True)]
    labels = torch.cat([labels for _, labels in read]).cpu()
    return Outcome(predictions, labels, [_score(prediction).double() for prediction in predictions])


def measure(prediction: AnyPrediction, labels: Tensor) -> dict[str, float]:
    """All `MEASURES` of a prediction, ranked by confidence; all `REGRESSION_MEASURES` of a regression."""
    if isinstance(prediction, Regression):
        return _measure_regression(prediction, labels)
    probs, hits = prediction.probs, metrics.correct(prediction.log_probs, labels)
    score = scores.confidence(prediction)
    values = (
        metrics.accuracy(probs, labels),
        metrics.top_k_accuracy(probs, labels),
        metrics.nll(prediction.log_probs, labels),
        metrics.brier(probs, labels),
        metrics.ece(probs, labels),
        metrics.ece(probs, labels, equal_mass=True),
        metrics.auroc(score, hits),
        metrics.aurc(score, hits),
    )
    return {name: float(value) for name, value in zip(MEASURES, values, strict=True)}


def _measure_regression(prediction: Regression, targets: Tensor) -> dict[str, float]:
    mean, variance = prediction.mean, prediction.variance
    values = (
        metrics.rmse(mean, targets),
        metrics.gaussian_nll(mean, variance, targets),
        metrics.gaussian_crps(mean, variance, targets),
        metrics.interval_coverage(mean, variance, targets),
    )
    return {name: float(value) for name, value in zip(REGRESSION_MEASURES, values, strict=True)}


def _score(prediction: AnyPrediction) -> Tensor:
    return scores.variance(prediction) if isinstance(prediction, Regression) else scores.confidence(prediction)


def per_exit(outcome: Outcome) -> list[dict[str, float]]:
    """All measures of each exit: anytime prediction."""
    return [measure(prediction, outcome.labels) for prediction in outcome.predictions]


def monotonicity(outcome: Outcome) -> dict[str, Any]:
    """Whether later exits only get better, example by example: shares of all examples.

    Returns:
        "broken": K − 1 shares that are right at exit k and wrong at the next. "repaired": K − 1 shares the other way
        round. "overthought": the share that is right at some exit and wrong at the last (Kaya et al. 2019).
        "fall": the mean of `metrics.largest_fall`. "fell": the share by how far the label's probability fell,
        more than 0.01, 0.1 and 0.5.
    """
    hits, pairs = outcome.hits, list(zip(outcome.hits, outcome.hits[1:], strict=False))
    chances = [p.probs.gather(1, outcome.labels[:, None])[:, 0] for p in outcome.predictions]
    falls = metrics.largest_fall(chances)
    return {
        "broken": [_share(before & ~after) for before, after in pairs],
        "repaired": [_share(~before & after) for before, after in pairs],
        "overthought": _share(torch.stack(hits).any(dim=0) & ~hits[-1]),
        "fall": float(falls.mean()),
        "fell": {by: _share(falls > by) for by in (0.01, 0.1, 0.5)},
    }


def _share(chosen: Tensor) -> float:
    return float(chosen.double().mean())
