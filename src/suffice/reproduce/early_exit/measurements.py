"""Measurements of paper one on cached features; every function returns plain numbers for a ledger.

Everything is fitted on training features, tuned on validation features, and evaluated on test features.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

import suffice
from suffice import evaluation, metrics
from suffice.budget import drift
from suffice.calibration import density
from suffice.calibration.calibrated import Calibrated
from suffice.evaluation import ranking
from suffice.evaluation.ablation import AblationStudy, row
from suffice.evaluation.cached import Features
from suffice.training.losses import Distilled, Loss, Smoothed

_ALL = evaluation.ABLATION["all"]

VARIANTS: dict[str, dict[str, Any]] = {
    "all, factored prior": {**_ALL, "prior": "factored"},
    "all, as the paper: factored prior, grid, 50 offsets": {"preset": "paper"},
    "all, prior by evidence": {**_ALL, "tuning": "evidence"},
    "all, link meanfield": {**_ALL, "link": "meanfield"},
    "all, link probit": {**_ALL, "link": "probit"},
    "all, product of exits": {**_ALL, "ensemble": "product"},
}
"""Alternatives to the row "all", as arguments of `calibrate`."""

DEFAULT = "default"
PRODUCT, TUNED, TUNED_PRODUCT = "all, product of exits", "all, tuned weights", "all, product, tuned weights"

BEYOND: dict[str, dict[str, Any]] = {
    PRODUCT: VARIANTS[PRODUCT],
    TUNED: {**_ALL, "ensemble_weights": "tuned"},
    TUNED_PRODUCT: {**_ALL, "ensemble": "product", "ensemble_weights": "tuned"},
    DEFAULT: {},
}
"""Settings that the paper does not have, shown beside the ablation where they were measured."""

COMPARED = ("vanilla", "temperature", "all", PRODUCT, TUNED, TUNED_PRODUCT)
"""Rows that are also measured for networks trained with another loss."""


@dataclass(frozen=True)
class AlternativeLoss:
    """Loss that an additional network is trained with.

    Attributes:
        title: Prefix of the rows of this network.
        loss: Training loss.
    """

    title: str
    loss: Loss

    @property
    def choices(self) -> dict[str, dict[str, Any]]:
        """Arguments of `calibrate`, by name of the row."""
        choices = {**evaluation.ABLATION, **BEYOND}
        return {f"{self.title}, {name}": choices[name] for name in COMPARED}


ALTERNATIVE_LOSSES = {
    "smoothed": AlternativeLoss("label smoothing", Smoothed(0.1)),
    "distilled": AlternativeLoss("self-distillation", Distilled()),
}
"""Alternative losses by their name on the command line."""


def alternative_losses(names: Iterable[str]) -> dict[str, AlternativeLoss]:
    """Return the alternative losses with these names.

    Raises:
        ValueError: If a name is unknown.
    """
    if unknown := set(names) - ALTERNATIVE_LOSSES.keys():
        raise ValueError(f"expected losses among {', '.join(ALTERNATIVE_LOSSES)}, got {', '.join(sorted(unknown))}")
    return {name: ALTERNATIVE_LOSSES[name] for name in names}


ROW_PAIRS = {
    "Laplace to temperature": ("temperature", "Laplace + temperature"),
    "ensemble to temperature": ("temperature", "ensemble + temperature"),
    "both to temperature": ("temperature", "all"),
    "Laplace to ensemble + temperature": ("ensemble + temperature", "all"),
    "temperature to Laplace + ensemble": ("Laplace + ensemble", "all"),
    "product for average": ("all", PRODUCT),
    "tuned weights for costs, average": ("all", TUNED),
    "tuned weights for costs, product": (PRODUCT, TUNED_PRODUCT),
}
"""Pairs of rows (without, with), by the part that the second row adds to the first or replaces in it."""

KEYS = (*evaluation.ABLATION, *VARIANTS, "added", "scores")
"""Keys of the runs that the tables of every experiment need."""

SCORES = ("confidence", "margin", "entropy", "aleatoric", "epistemic")
"""Built-in scores that are compared as exit criteria."""

WINDOW, BATCH = 500, 100
"""Number of scores that running quantiles are taken over, and batch size of the stream."""

OOD_PREFIX = "ood: "
"""Prefix of the key of a run that measures out-of-distribution detection; the name of the data set follows."""


def measures() -> dict[str, Callable[[AblationStudy], dict[str, Any]]]:
    """Return the measurements of every network, by key of the run."""
    choices = {**evaluation.ABLATION, **VARIANTS, **BEYOND}
    rows = {name: partial(row, **arguments) for name, arguments in choices.items()}
    return {**rows, "added": row_differences, "scores": lambda study: {"rows": by_score(study)}}


def row_differences(study: AblationStudy) -> dict[str, dict[str, Any]]:
    """Compute the differences of the rows in `ROW_PAIRS`, as `differences` does."""
    choices = {**evaluation.ABLATION, **BEYOND, "Laplace + ensemble": {**_ALL, "temperature": False}}
    return differences(study, choices, ROW_PAIRS)


def differences(
    study: AblationStudy, rows: Mapping[str, dict[str, Any]], pairs: Mapping[str, tuple[str, str]]
) -> dict[str, dict[str, Any]]:
    """Compute the difference between the rows of each pair, averaged over the budgets.

    Args:
        study: Network over its features.
        rows: Arguments of `calibrate` by the name of the row.
        pairs: Names of two rows, without and with a part, by the name of the part.

    Returns:
        For each pair and each measure, "mean" and "interval", the 95 % bootstrap interval of the paired differences.
    """
    resampled = {name: _resampled(study, rows[name]) for name in dict.fromkeys(sum(pairs.values(), ()))}
    results: dict[str, dict[str, Any]] = {}
    for part, (without, having) in pairs.items():
        gains = {name: resampled[having][name] - resampled[without][name] for name in evaluation.INTERVALS}
        results[part] = {
            name: {"mean": float(values[0]), "interval": evaluation.interval(values)} for name, values in gains.items()
        }
    return results


def _resampled(study: AblationStudy, choices: dict[str, Any]) -> dict[str, torch.Tensor]:
    calibrated, _ = study.calibrated(**choices)
    validation, test = (evaluation.predict(calibrated, split) for split in (study.validation, study.test))
    predictions = (answer.prediction for answer in evaluation.over_budgets(calibrated, validation, test))
    return evaluation.resampled(predictions, test.labels, generator=study.generator())


def by_score(study: AblationStudy) -> list[dict[str, Any]]:
    """Evaluate each of `SCORES` as the exit criterion of the same calibrated network over the ladder of budgets."""
    calibrated, _ = study.calibrated(**evaluation.ABLATION["all"])
    test = evaluation.predict(calibrated, study.test)
    ranked = ranking.rankings(calibrated, study.validation, study.test, {name: name for name in SCORES})
    return [{key: value for key, value in row.items() if key != "curve"} for row in ranking.by_score(test, ranked)]


def ood_detection(study: AblationStudy, ood: Features) -> dict[str, dict[str, float]]:
    """Compute how well scores of the last exit separate the test data from out-of-distribution data.

    Returns:
        "auroc" and "fpr95" for each score, with the test data as the positive class.
    """
    vanilla, _ = study.calibrated(**evaluation.ABLATION["vanilla"])
    calibrated, _ = study.calibrated(**evaluation.ABLATION["all"])
    feature_density = density.fit(study.network, study.train)

    def scores(features: Features) -> dict[str, torch.Tensor]:
        uncalibrated = [vanilla(phi)[-1].log_probs.amax(dim=1) for phi, _ in features]
        predictions = [calibrated(phi)[-1] for phi, _ in features]
        return {
            "max-probability": torch.cat(uncalibrated),
            "max-probability, calibrated": torch.cat([p.log_probs.amax(dim=1) for p in predictions]),
            "entropy, calibrated": torch.cat([-p.entropy for p in predictions]),
            "epistemic": torch.cat([-p.epistemic for p in predictions]),
            "density": torch.cat([feature_density(phi) for phi, _ in features]),
        }

    in_distribution, out_of_distribution = scores(study.test), scores(ood)
    return {name: separation(values, out_of_distribution[name]) for name, values in in_distribution.items()}


def separation(in_distribution: torch.Tensor, out_of_distribution: torch.Tensor) -> dict[str, float]:
    """Compute how well scores (N,) and (M,) separate two sets: "auroc" and "fpr95", the first set as positives."""
    values = torch.cat([in_distribution, out_of_distribution])
    positive = torch.arange(len(values)) < len(in_distribution)
    return {"auroc": float(metrics.auroc(values, positive)), "fpr95": float(metrics.fpr95(values, positive))}


def under_corruption(
    study: AblationStudy, corrupted: dict[str, Features], budget: float = 0.5
) -> dict[str, dict[str, dict[str, float]]]:
    """Run a policy on streams of corrupted images, with frozen thresholds and with running quantiles.

    Returns:
        For each corruption, under "frozen" and "running": "cost", relative to the expected cost of the policy,
        "accuracy" and "ece".
    """
    calibrated, _ = study.calibrated(**evaluation.ABLATION["all"])
    policy = suffice.allocate(calibrated, study.validation, budget)
    results = {}
    for name, features in {"none": study.test, **corrupted}.items():
        order = torch.randperm(len(features.labels), generator=study.generator())
        stream = Features(features.phi, features.labels, BATCH).subset(order)
        results[name] = {
            "frozen": _run_stream(calibrated, policy, stream, running=False),
            "running": _run_stream(calibrated, policy, stream, running=True),
        }
    return results


def _run_stream(calibrated: Calibrated, policy: suffice.Policy, stream: Features, *, running: bool) -> dict[str, float]:
    tracker, answers = drift.track(policy, WINDOW), []
    for phi, _ in stream:
        answers.append(suffice.run(calibrated, tracker.policy if running else policy, phi))
        tracker = tracker.update(answers[-1])
    probs = torch.cat([answer.probs for answer in answers])
    spent = torch.cat([answer.macs for answer in answers]).double().mean()
    return {
        "cost": float(spent / policy.expected),
        "accuracy": float(metrics.accuracy(probs, stream.labels)),
        "ece": float(metrics.ece(probs, stream.labels)),
    }
