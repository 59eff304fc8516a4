"""What a calibrated network is worth: measures per exit and over budgets, with bootstrap intervals.

Everything is computed from the predictions of every exit, made once. Budgets are the paper's ladder of 39:
q = p/20, p = 1 … 39, exit k answering a share proportional to q^k, thresholds from validation scores.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from suffice import metrics
from suffice.batches import Loader
from suffice.budget import scores
from suffice.budget.thresholds import choose, geometric_shares, rank, thresholds_for
from suffice.calibration import likelihoods
from suffice.calibration.calibrated import Calibrated
from suffice.prediction import AnyPrediction, Prediction, concatenate, kept
from suffice.regression import Regression

ABLATION: dict[str, dict[str, Any]] = {
    "vanilla": {"structure": None, "temperature": False, "ensemble": False},
    "temperature": {"structure": None, "temperature": True, "ensemble": False},
    "ensemble": {"structure": None, "temperature": False, "ensemble": True},
    "ensemble + temperature": {"structure": None, "temperature": True, "ensemble": True},
    "Laplace": {"temperature": False, "ensemble": False},
    "Laplace + temperature": {"temperature": True, "ensemble": False},
    "all": {"temperature": True, "ensemble": True},
}
"""The rows that every table has, as arguments of `calibrate`: each part alone, and together."""

LADDER = tuple(p / 20 for p in range(1, 40))
"""q of the paper's 39 budgets."""

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


@dataclass(frozen=True)
class Budgeted:
    """One budget of the ladder on the test set.

    Attributes:
        prediction: the answer of each example's exit, a `Prediction` or a `Regression`.
        exits: (N,), that exit.
        macs: mean multiply-adds per example.
        requested: those that the ladder's shares would cost.
    """

    prediction: Any
    exits: Tensor
    macs: float
    requested: float


def over_budgets(calibrated: Calibrated, validation: Outcome, test: Outcome) -> Iterator[Budgeted]:
    """Answers under each budget of the ladder, one at a time; thresholds come from the validation outcome alone."""
    costs = torch.tensor(calibrated.costs.cumulative, dtype=torch.float64)
    every = concatenate(test.predictions)
    for shares, exits in ladder(validation.scores, test.scores):
        answer = every.take(exits * len(exits) + torch.arange(len(exits)))
        yield Budgeted(answer, exits, float(costs[exits].mean()), float(shares @ costs))


def ladder(validation: Sequence[Tensor], test: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Shares (K,) asked for and exits (N,) of the test examples under each budget, from the scores of every exit."""
    ranked = rank(validation)
    for q in LADDER:
        shares = geometric_shares(math.log(q), len(test))
        yield shares, choose(test, thresholds_for(ranked, shares))


def averaged(rows: Sequence[Mapping[str, float]], test: Outcome) -> dict[str, float]:
    """Each measure averaged over the budgets' rows, and of classes EEFP of the exits' scores, which has no budget."""
    means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    if isinstance(test.predictions[0], Regression):
        return means
    return {**means, "eefp": float(metrics.eefp(test.scores, test.hits))}


def summary(
    calibrated: Calibrated, validation: Outcome, test: Outcome, *, generator: torch.Generator
) -> dict[str, Any]:
    """What a row of a table is made of: plain numbers.

    Args:
        calibrated: what gave both outcomes.
        validation: where thresholds come from.
        test: where everything is measured.
        generator: randomness of the bootstrap; the same state resamples rows alike.

    Returns:
        "tuned": δ and T of each exit. "averaged": measures over the budgets. "intervals": their `bootstrap`.
        "exits": measures of each exit. "reliability": count, confidence and hits of ten bins, for each exit.
        "curve": for each budget, mean multiply-adds and those requested, the shares of the exits, accuracy and ECE.

    Raises:
        TypeError: for a regression, which `per_exit` and `averaged` measure.
    """
    if isinstance(test.predictions[0], Regression):
        raise TypeError("expected an outcome of classes, got one of a regression; ask per_exit and averaged for it")
    exits, curve, rows = len(calibrated.exits), [], []
    for answer in over_budgets(calibrated, validation, test):
        rows.append(measure(answer.prediction, test.labels))
        shares = torch.bincount(answer.exits, minlength=exits) / len(answer.exits)
        point = {name: rows[-1][name] for name in ("accuracy", "ece")}
        curve.append({"macs": answer.macs, "requested": answer.requested, **point, "shares": shares.tolist()})
    answers = (answer.prediction for answer in over_budgets(calibrated, validation, test))
    return {
        "tuned": [{"prior_precision": e.prior_precision, "temperature": e.temperature} for e in calibrated.exits],
        "averaged": averaged(rows, test),
        "intervals": bootstrap(answers, test.labels, generator=generator),
        "exits": per_exit(test),
        "reliability": [
            metrics.reliability(prediction.confidence, hits, bins=10).tolist()
            for prediction, hits in zip(test.predictions, test.hits, strict=True)
        ],
        "curve": curve,
    }


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


INTERVALS = ("accuracy", "nll", "ece")
"""Measures that `bootstrap` gives intervals of."""
