"""Bootstrap intervals of measures that are averaged over budgets."""

from collections.abc import Iterable

import torch
from torch import Tensor

from suffice import metrics
from suffice.prediction import Prediction

INTERVALS = ("accuracy", "nll", "ece")
"""Names of the measures with intervals."""


def bootstrap(
    answers: Iterable[Prediction], labels: Tensor, *, generator: torch.Generator, resamples: int = 1000
) -> dict[str, tuple[float, float]]:
    """Compute 95 % intervals of accuracy, NLL and ECE averaged over answers, by resampling the examples.

    The intervals are percentiles minus the bias of the resamples: noise raises a calibration error, and resamples are
    noisier than the examples (Efron and Tibshirani 1993, section 10.2).

    Args:
        answers: Predictions of the same N examples, one for each budget.
        labels: Labels (N,).
        generator: Random generator of the resamples.
        resamples: Number of resamples.

    Returns:
        Lower and upper end of the interval of each measure.
    """
    intervals = {
        name: interval(values)
        for name, values in resampled(answers, labels, generator=generator, resamples=resamples).items()
    }
    return {name: (max(0.0, low), high) for name, (low, high) in intervals.items()}


def resampled(
    answers: Iterable[Prediction], labels: Tensor, *, generator: torch.Generator, resamples: int = 1000
) -> dict[str, Tensor]:
    """Compute accuracy, NLL and ECE averaged over answers, for the examples and for resamples of them.

    The same state of `generator` gives the same resamples, so that differences between two sets of answers are paired.

    Returns:
        For each measure its value on the examples, then on each resample, (1 + resamples,) float64.
    """
    n = len(labels)
    rows = torch.cat([torch.arange(n)[None], torch.randint(n, (resamples, n), generator=generator)])
    weights = torch.zeros(rows.shape, dtype=torch.float64)
    weights.scatter_add_(1, rows, torch.full_like(weights, 1 / n))
    sums: dict[str, Tensor] = {name: torch.zeros(len(rows), dtype=torch.float64) for name in INTERVALS}
    count = 0
    for answer in answers:
        hits = metrics.correct(answer.log_probs, labels).double()
        confidence = answer.confidence.double()
        bins = torch.nn.functional.one_hot(metrics.bin_index(confidence, 15), 15).double()
        sums["accuracy"] += weights @ hits
        sums["nll"] -= weights @ answer.log_probs.double().gather(1, labels[:, None])[:, 0]
        sums["ece"] += (weights @ (bins * (confidence - hits)[:, None])).abs().sum(dim=1)
        count += 1
    return {name: total / count for name, total in sums.items()}


def interval(values: Tensor) -> tuple[float, float]:
    """Compute the 95 % interval of a measure: percentiles of the resamples minus their bias.

    Args:
        values: The measured value, then the values of R resamples, (1 + R,).
    """
    measured, resamples = values[0], values[1:]
    low, high = metrics.quantile(resamples, [0.025, 0.975]) - (resamples.mean() - measured)
    return float(low), float(high)
