"""Bootstrap intervals of measures that are averaged over budgets."""

from collections.abc import Iterable

import torch
from torch import Tensor

from suffice import metrics
from suffice.prediction import Prediction

INTERVALS = ("accuracy", "nll", "ece")
"""Measures that `bootstrap` gives intervals of."""


def bootstrap(
    answers: Iterable[Prediction], labels: Tensor, *, generator: torch.Generator, resamples: int = 1000
) -> dict[str, tuple[float, float]]:
    """95 % intervals of accuracy, NLL and ECE averaged over answers, resampling the examples.

    Percentiles, less the bias of the resamples: noise raises a calibration error, and resamples are noisier than the
    examples (Efron and Tibshirani 1993, section 10.2).

    Args:
        answers: predictions of the same N examples, one for each budget.
        labels: (N,).
        generator: randomness of the resamples.
        resamples: number of them.
    """
    drawn = resampled(answers, labels, generator=generator, resamples=resamples)
    return {name: (max(0.0, low), high) for name, (low, high) in ((name, interval(v)) for name, v in drawn.items())}


def resampled(
    answers: Iterable[Prediction], labels: Tensor, *, generator: torch.Generator, resamples: int = 1000
) -> dict[str, Tensor]:
    """What `bootstrap` takes its intervals of: for each measure (1 + resamples,) float64, as measured and resampled.

    The same `generator` state gives the same resamples, so that differences between two sets of answers are paired.
    """
    n = len(labels)
    drawn = torch.cat([torch.arange(n)[None], torch.randint(n, (resamples, n), generator=generator)])
    weights = torch.zeros(drawn.shape, dtype=torch.float64)
    weights.scatter_add_(1, drawn, torch.full_like(weights, 1 / n))
    sums: dict[str, Tensor] = {name: torch.zeros(len(drawn), dtype=torch.float64) for name in INTERVALS}
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
    """95 % interval of what was measured, the first of (1 + R,) values, by its R resamples, less their bias."""
    measured, others = values[0], values[1:]
    low, high = others.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)) - (others.mean() - measured)
    return float(low), float(high)
