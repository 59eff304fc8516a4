"""Measurements of a text classifier: the ablation on cached features, budgets and guarantees on the network itself."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import suffice
from suffice import evaluation, metrics
from suffice.batches import Loader, read
from suffice.budget.certification import RiskLoss
from suffice.budget.prices import Prices, price
from suffice.calibration.calibrated import Calibrated
from suffice.data.splits.texts import TokenBatches
from suffice.evaluation.ablation import AblationStudy, row
from suffice.reproduce.early_exit import measurements
from suffice.reproduce.early_exit.text.classifiers import TextClassifier
from suffice.reproduce.early_exit.text.subjects import TrainedClassifier, inputs
from suffice.reproduce.ledger import Results
from suffice.utils.timing import interleaved

PAPER = "all, as the paper: factored prior, grid, 50 offsets"
CHOICES = {**evaluation.ABLATION, PAPER: measurements.VARIANTS[PAPER], **measurements.BEYOND}
"""All rows, as arguments of `calibrate`."""
ROWS = ("vanilla", "temperature", "all", measurements.DEFAULT)
"""Rows that are measured for every network."""
FRACTIONS = (0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.75)
"""Budgets, as fractions of the cost of the last exit."""
GUARANTEES: tuple[tuple[RiskLoss, float], ...] = (
    ("agreement", 0.01),
    ("agreement", 0.02),
    ("agreement", 0.05),
    ("accuracy", 0.005),
    ("accuracy", 0.01),
    ("accuracy", 0.02),
)
"""Losses that are bounded, and the bounds."""
TIMED = {1: 96, 64: 12}
"""Number of timed batches of each size, spread evenly over the lengths of the test texts."""
REPEATS = 5


Measure = Callable[[TrainedClassifier], Results]


def measures(whole: bool) -> dict[str, Measure]:
    """Return the measurements of a network, by key of the run.

    Args:
        whole: Measure all of `CHOICES`, their differences and the scores, instead of `ROWS` alone.
    """
    rows: dict[str, Callable[[AblationStudy], Results]] = {
        name: partial(row, **choices) for name, choices in CHOICES.items() if whole or name in ROWS
    }
    if whole:
        rows |= {"added": measurements.row_differences, "scores": lambda study: {"rows": measurements.by_score(study)}}
    return {
        "budgets": budgets,
        "guarantees": guarantees,
        **{f"{key}, by exit": partial(by_exit, **CHOICES[key]) for key in ROWS},
        "out of scope": out_of_scope,
        **{key: partial(_on_features, measure) for key, measure in rows.items()},
    }


def _on_features(measure: Callable[[AblationStudy], Results], trained: TrainedClassifier) -> Results:
    return measure(trained.study)


def by_exit(trained: TrainedClassifier, **choices: Any) -> Results:
    """Measure the predictions of each exit on all test texts.

    Returns:
        "exits": the measures of each exit, with "floor", the `ece_noise_floor` of its probabilities. "wrong": the rows
        of the test texts that the last exit gets wrong.
    """
    calibrated, notes = trained.study.calibrated(**choices)
    outcome = evaluation.predict(calibrated, trained.study.test)
    floors = [float(metrics.ece_noise_floor(prediction.probs)) for prediction in outcome.predictions]
    exits = [{**values, "floor": floor} for values, floor in zip(evaluation.per_exit(outcome), floors, strict=True)]
    return {"notes": notes, "exits": exits, "wrong": _rows(~outcome.hits[-1])}


def out_of_scope(trained: TrainedClassifier) -> Results:
    """Measure how well each score of the last exit separates the test texts from requests out of scope.

    The scores of `measurements.ood_detection`, and two of the network that is calibrated by the default.
    """
    calibrated, _ = trained.study.calibrated()
    parts = [[calibrated(phi)[-1] for phi, _ in features] for features in (trained.study.test, trained.out_of_scope)]
    scores = {
        "max-probability, default": lambda prediction: prediction.log_probs.amax(dim=1),
        "entropy, default": lambda prediction: -prediction.entropy,
    }
    return {
        **measurements.ood_detection(trained.study, trained.out_of_scope),
        **{
            name: measurements.separation(*(torch.cat(list(map(score, predictions))) for predictions in parts))
            for name, score in scores.items()
        },
    }


def budgets(trained: TrainedClassifier) -> Results:
    """Run the network, calibrated by the default, under each budget.

    Returns:
        "plain": multiply-adds and milliseconds per text of the plain network. "rows": for each budget the requested
        fraction, the measures of the answers (`measured`), those of requests out of scope, and milliseconds.
    """
    calibrated, validation = trained.calibrated, trained.requests.batches("validation")
    fractions = _affordable(calibrated, validation)
    policies = {str(fraction): suffice.allocate(calibrated, validation, fraction) for fraction in fractions}
    times = {size: milliseconds(trained, policies, size) for size in TIMED}
    rows = []
    for name, policy in policies.items():
        test, others = (
            answers(calibrated, policy, trained.requests.batches(part)) for part in ("test", "out_of_scope")
        )
        separation = measurements.separation(test.log_confidence, others.log_confidence)
        rows.append(
            {
                "fraction": float(name),
                **measured(trained, test),
                "out of scope": {**separation, "macs": float(others.macs.double().mean())},
                "milliseconds": {size: values[name] for size, values in times.items()},
            }
        )
    plain = {
        "macs": trained.plain_macs,
        "macs, out of scope": trained.mean_plain_macs("out_of_scope"),
        "milliseconds": {size: values["plain"] for size, values in times.items()},
    }
    return {"plain": plain, "rows": rows}


def _affordable(calibrated: Calibrated, loader: Loader) -> list[float]:
    """Return the fractions that pay for the first exit of the examples of a loader."""
    batches = list(read(loader, calibrated.network))
    prices = Prices.of_batches(
        [price(calibrated, batch.inputs, "confidence") for batch in batches], [batch.size for batch in batches]
    )
    first, *_, last = prices.per_example().mean(dim=1).tolist()
    return [fraction for fraction in FRACTIONS if fraction * last >= first]


def guarantees(trained: TrainedClassifier) -> Results:
    """Run the network under policies whose loss, relative to the last exit, is bounded with a confidence of 95 %.

    Returns:
        "notes": the messages of the warnings. "rows": for each of `GUARANTEES` the loss, its bound, its mean on the
        test texts, and the measures of the answers.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = _guaranteed(trained)
    return {"notes": [str(warning.message) for warning in caught], "rows": rows}


def _guaranteed(trained: TrainedClassifier) -> list[Results]:
    calibrated, rows = trained.calibrated, []
    last = torch.cat([calibrated(inputs(batch))[-1].label for batch in trained.requests.batches("test")])
    labels = trained.requests.test.labels
    for loss, bound in GUARANTEES:
        policy = suffice.control_risk(calibrated, trained.requests.batches("held_out"), bound, 0.95, loss)
        test = answers(calibrated, policy, trained.requests.batches("test"))
        lost = test.label != last if loss == "agreement" else (last == labels) & (test.label != labels)
        rows.append({"loss": loss, "bound": bound, "lost": float(lost.double().mean()), **measured(trained, test)})
    return rows


@dataclass(frozen=True)
class Answers:
    """Answers to a part of the requests, in its order.

    Attributes:
        log_probs: Log-probabilities (N, C).
        exit: Number of the exit (N,) where each text stopped.
        macs: Multiply-adds (N,) spent on each text.
    """

    log_probs: Tensor
    exit: Tensor
    macs: Tensor

    @property
    def label(self) -> Tensor:
        """Most probable class (N,)."""
        return self.log_probs.argmax(dim=1)

    @property
    def log_confidence(self) -> Tensor:
        """Logarithm of the greatest probability (N,)."""
        return self.log_probs.amax(dim=1)


def answers(calibrated: Calibrated, policy: suffice.Policy, batches: TokenBatches) -> Answers:
    """Run a policy on a part of the requests."""
    parts = [suffice.run(calibrated, policy, inputs(batch)) for batch in batches]
    return Answers(
        torch.cat([part.prediction.log_probs for part in parts]),
        torch.cat([part.exit for part in parts]),
        torch.cat([part.macs for part in parts]),
    )


def measured(trained: TrainedClassifier, test: Answers) -> Results:
    """Measure answers to the test texts: quality, cost relative to the plain network, and the share of each exit."""
    labels, probs = trained.requests.test.labels, test.log_probs.exp()
    macs = float(test.macs.double().mean())
    return {
        "accuracy": float(metrics.accuracy(test.log_probs, labels)),
        "nll": float(metrics.nll(test.log_probs, labels)),
        "ece": float(metrics.ece(probs, labels)),
        "floor": float(metrics.ece_noise_floor(probs)),
        "macs": macs,
        "speedup": trained.plain_macs / macs,
        "shares": (torch.bincount(test.exit, minlength=len(trained.network.exits)) / len(labels)).tolist(),
        "wrong": _rows(test.label != labels),
    }


def milliseconds(trained: TrainedClassifier, policies: Mapping[str, suffice.Policy], size: int) -> dict[str, float]:
    """Measure milliseconds per text in interleaved runs: of the network "plain", and under each policy, by name.

    The batches hold texts of similar length, and are spread evenly over the lengths of the test texts.
    """
    batches = [inputs(batch) for batch in _spread(trained.requests.batches("test", size), TIMED[size])]
    functions: dict[str, Callable[[], object]] = {"plain": partial(_run_plain, trained.plain, batches)}
    for name, policy in policies.items():
        functions[name] = partial(_run_policy, trained.calibrated, policy, batches)
    texts = sum(len(batch["input_ids"]) for batch in batches)
    return {name: time / texts for name, time in interleaved(functions, REPEATS).items()}


def _spread(batches: TokenBatches, count: int) -> Iterator[dict[str, Tensor]]:
    """Yield `count` of the full batches, spread evenly."""
    full = len(batches.split) // batches.size
    chosen = set(torch.linspace(0, full - 1, min(count, full)).long().tolist())
    return (batch for number, batch in enumerate(batches) if number in chosen)


@torch.inference_mode()
def _run_plain(model: TextClassifier, batches: Sequence[dict[str, Tensor]]) -> None:
    for batch in batches:
        model(**batch)


def _run_policy(calibrated: Calibrated, policy: suffice.Policy, batches: Sequence[dict[str, Tensor]]) -> None:
    for batch in batches:
        suffice.run(calibrated, policy, batch)


def _rows(chosen: Tensor) -> str:
    """Return the positions where `chosen` (N,) is true, as text on one line of a JSON file."""
    return " ".join(map(str, chosen.nonzero()[:, 0].tolist()))
