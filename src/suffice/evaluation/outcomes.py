"""Predictions of every exit for a whole labeled set, computed once, and their measures."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from suffice import metrics
from suffice.batches import Loader
from suffice.budget.prices import Prices
from suffice.calibration import likelihoods
from suffice.calibration.calibrated import Calibrated
from suffice.prediction import AnyPrediction, Multilabel, Prediction, Regression, concatenate, without_members

MEASURES = Prediction.measure_names
"""Names of the measures of a classification."""

REGRESSION_MEASURES = Regression.measure_names
"""Names of the measures of a regression: RMSE, NLL in nats, CRPS, and the coverage of the 95 % intervals."""


MULTILABEL_MEASURES = Multilabel.measure_names
"""Names of the measures of a multi-label classification; see `Multilabel.measures`."""


@dataclass(frozen=True)
class Outcome:
    """Predictions of a labeled set at every exit, on the CPU.

    Attributes:
        predictions: Predictions of N examples at each of K exits, without their members.
        labels: Labels (N,), or several labels (N, K), or targets (N, C).
        scores: Default score (N,) at each exit, float64, higher meaning more certain.
        prices: Multiply-adds of each example at each exit.
    """

    predictions: list[Any]
    labels: Tensor
    scores: list[Tensor]
    prices: Prices

    @property
    def is_classification(self) -> bool:
        """True if the targets are classes, so that a prediction is correct or wrong."""
        return bool(self.predictions[0].kind == "classification")

    @property
    def hits(self) -> list[Tensor]:
        """Correctness of the predictions of each exit, K × (N,) bool.

        Raises:
            TypeError: Unless the targets are classes.
        """
        self.require_classes()
        return [prediction.correct(self.labels) for prediction in self.predictions]

    def require_classes(self) -> None:
        """Raise a TypeError unless the targets are classes."""
        if not self.is_classification:
            raise TypeError(
                f"expected an outcome of classes, got one of a {self.predictions[0].kind}; use per_exit and averaged "
                "instead"
            )


def predict(calibrated: Calibrated, loader: Loader) -> Outcome:
    """Predict a whole labeled loader, read once, at every exit."""
    batches = list(likelihoods.read(loader, calibrated.network, calibrated.likelihood))
    parts = [[without_members(prediction) for prediction in calibrated(batch.inputs)] for batch, _ in batches]
    predictions = [concatenate(list(exit_parts)) for exit_parts in zip(*parts, strict=True)]
    labels = torch.cat([labels for _, labels in batches]).cpu()
    costs = [calibrated.costs_for(batch.inputs).cumulative for batch, _ in batches]
    prices = Prices.of_batches(costs, [batch.size for batch, _ in batches])
    return Outcome(predictions, labels, [prediction.default_score.double() for prediction in predictions], prices)


def measure(prediction: AnyPrediction, labels: Tensor) -> dict[str, float]:
    """Compute all measures of a prediction by name: `MEASURES`, `MULTILABEL_MEASURES` or `REGRESSION_MEASURES`."""
    return prediction.measures(labels)


def per_exit(outcome: Outcome) -> list[dict[str, float]]:
    """Compute all measures of each exit, as for anytime prediction."""
    return [measure(prediction, outcome.labels) for prediction in outcome.predictions]


def monotonicity(outcome: Outcome) -> dict[str, Any]:
    """Measure how far each example only improves from exit to exit, as fractions of all examples.

    Returns:
        "broken": K − 1 fractions that are correct at exit k and wrong at the next. "repaired": K − 1 fractions with the
        reverse. "overthought": the fraction that is correct at some exit and wrong at the last (Kaya et al. 2019).
        "fall": the mean of `metrics.largest_fall`. "fell": the fraction by how far the label's probability fell, more
        than 0.01, 0.1 and 0.5.
    """
    hits, pairs = outcome.hits, list(zip(outcome.hits, outcome.hits[1:], strict=False))
    label_probs = [p.probs.gather(1, outcome.labels[:, None])[:, 0] for p in outcome.predictions]
    falls = metrics.largest_fall(label_probs)
    return {
        "broken": [_fraction(before & ~after) for before, after in pairs],
        "repaired": [_fraction(~before & after) for before, after in pairs],
        "overthought": _fraction(torch.stack(hits).any(dim=0) & ~hits[-1]),
        "fall": float(falls.mean()),
        "fell": {by: _fraction(falls > by) for by in (0.01, 0.1, 0.5)},
    }


def _fraction(mask: Tensor) -> float:
    return float(mask.double().mean())
