"""What paper one measures, on cached features: every function gives plain numbers for a ledger.

Everything is fitted on training features, tuned on validation features, and judged on test features.
"""

from collections.abc import Callable, Iterable
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

VARIANTS: dict[str, dict[str, Any]] = {
    "all, factored prior": {"prior": "factored"},
    "all, as the paper: factored prior, grid, 50 offsets": {"prior": "factored", "tuning": "grid", "samples": 50},
    "all, prior by evidence": {"tuning": "evidence"},
    "all, link meanfield": {"link": "meanfield"},
    "all, link probit": {"link": "probit"},
    "all, product of exits": {"ensemble": "product"},
}
"""Other choices than the default, as arguments of `calibrate`."""

PRODUCT, TUNED, TUNED_PRODUCT = "all, product of exits", "all, tuned weights", "all, product, tuned weights"

BEYOND: dict[str, dict[str, Any]] = {
    PRODUCT: VARIANTS[PRODUCT],
    TUNED: {"ensemble_weights": "tuned"},
    TUNED_PRODUCT: {"ensemble": "product", "ensemble_weights": "tuned"},
}
"""What the paper does not have, shown beside the ablation where it was measured."""

COMPARED = ("vanilla", "temperature", "all", *BEYOND)
"""Rows that are measured of networks trained with other losses too."""


@dataclass(frozen=True)
class Other:
    """Another loss, which a second network is trained with.

    Attributes:
        title: as rows are called.
        loss: of the training.
    """

    title: str
    loss: Loss

    @property
    def choices(self) -> dict[str, dict[str, Any]]:
        """Arguments of `calibrate`, by the name of the row."""
        known = {**evaluation.ABLATION, **BEYOND}
        return {f"{self.title}, {name}": known[name] for name in COMPARED}


OTHERS = {
    "smoothed": Other("label smoothing", Smoothed(0.1)),
    "distilled": Other("self-distillation", Distilled()),
}
"""By the name that they are asked for by."""


def others(names: Iterable[str]) -> dict[str, Other]:
    """Those of these names.

    Raises:
        ValueError: for a name that there is not.
    """
    if unknown := set(names) - OTHERS.keys():
        raise ValueError(f"expected other losses among {', '.join(OTHERS)}, got {', '.join(sorted(unknown))}")
    return {name: OTHERS[name] for name in names}


ADDED = {
    "Laplace to temperature": ("temperature", "Laplace + temperature"),
    "ensemble to temperature": ("temperature", "ensemble + temperature"),
    "both to temperature": ("temperature", "all"),
    "Laplace to ensemble + temperature": ("ensemble + temperature", "all"),
    "temperature to Laplace + ensemble": ("Laplace + ensemble", "all"),
    "product for average": ("all", PRODUCT),
    "tuned weights for costs, average": ("all", TUNED),
    "tuned weights for costs, product": (PRODUCT, TUNED_PRODUCT),
}
"""Pairs of rows: what the second has more than the first, or in place of it."""

KEYS = (*evaluation.ABLATION, *VARIANTS, "added", "scores")
"""Runs that every table can be made from."""

SCORES = ("confidence", "margin", "entropy", "aleatoric", "epistemic")
"""Built-in scores that may decide where an example leaves."""

WINDOW, BATCH = 500, 100
"""Of the running quantiles: scores remembered, and examples in a batch of the stream."""

STRANGERS = "strangers: "
"""Before the name of a data set, what a run against it is called."""


def measures() -> dict[str, Callable[[AblationStudy], dict[str, Any]]]:
    """What is measured of every network, by the name of the run."""
    choices = {**evaluation.ABLATION, **VARIANTS, **BEYOND}
    rows = {name: partial(row, **chosen) for name, chosen in choices.items()}
    return {**rows, "added": added, "scores": lambda case: {"rows": by_score(case)}}


def added(case: AblationStudy) -> dict[str, dict[str, Any]]:
    """For each pair of `ADDED` and each measure the difference, averaged over the budgets, and its paired interval."""
    choices = {**evaluation.ABLATION, **BEYOND, "Laplace + ensemble": {"temperature": False}}
    drawn = {name: _resampled(case, choices[name]) for name in dict.fromkeys(sum(ADDED.values(), ()))}
    found: dict[str, dict[str, Any]] = {}
    for what, (without, having) in ADDED.items():
        apart = {measure: drawn[having][measure] - drawn[without][measure] for measure in evaluation.INTERVALS}
        found[what] = {m: {"mean": float(d[0]), "interval": evaluation.interval(d)} for m, d in apart.items()}
    return found


def _resampled(case: AblationStudy, choices: dict[str, Any]) -> dict[str, torch.Tensor]:
    calibrated, _ = case.calibrated(**choices)
    validation, test = (evaluation.predict(calibrated, part) for part in (case.validation, case.test))
    answers = (answer.prediction for answer in evaluation.over_budgets(calibrated, validation, test))
    return evaluation.resampled(answers, test.labels, generator=case.generator())


def by_score(case: AblationStudy) -> list[dict[str, Any]]:
    """Each score deciding over the ladder, of the same calibrated network and so at equal cost."""
    calibrated, _ = case.calibrated(**evaluation.ABLATION["all"])
    test = evaluation.predict(calibrated, case.test)
    ranked = ranking.rankings(calibrated, case.validation, case.test, {name: name for name in SCORES})
    return [{key: value for key, value in row.items() if key != "curve"} for row in ranking.by_score(test, ranked)]


def strangers(case: AblationStudy, others: Features) -> dict[str, dict[str, float]]:
    """AUROC and FPR95 of each score between the test data and others, of the last exit."""
    vanilla, _ = case.calibrated(**evaluation.ABLATION["vanilla"])
    calibrated, _ = case.calibrated(**evaluation.ABLATION["all"])
    familiar = density.fit(case.network, case.train)

    def values(features: Features) -> dict[str, torch.Tensor]:
        plain = [vanilla(phi)[-1].log_probs.amax(dim=1) for phi, _ in features]
        ours = [calibrated(phi)[-1] for phi, _ in features]
        return {
            "max-probability": torch.cat(plain),
            "max-probability, calibrated": torch.cat([p.log_probs.amax(dim=1) for p in ours]),
            "entropy, calibrated": torch.cat([-p.entropy for p in ours]),
            "epistemic": torch.cat([-p.epistemic for p in ours]),
            "density": torch.cat([familiar(phi) for phi, _ in features]),
        }

    inside, outside = values(case.test), values(others)
    return {score: _apart(inside[score], outside[score]) for score in inside}


def _apart(inside: torch.Tensor, outside: torch.Tensor) -> dict[str, float]:
    both = torch.cat([inside, outside])
    positive = torch.arange(len(both)) < len(inside)
    return {"auroc": float(metrics.auroc(both, positive)), "fpr95": float(metrics.fpr95(both, positive))}


def under_corruption(
    case: AblationStudy, corrupted: dict[str, Features], budget: float = 0.5
) -> dict[str, dict[str, dict[str, float]]]:
    """A policy on streams that are corrupted from beginning to end, with frozen and with running thresholds.

    Returns:
        For each corruption and each way, "cost" relative to what the policy expects, "accuracy" and "ece".
    """
    calibrated, _ = case.calibrated(**evaluation.ABLATION["all"])
    policy = suffice.allocate(calibrated, case.validation, budget)
    found = {}
    for name, features in {"none": case.test, **corrupted}.items():
        order = torch.randperm(len(features.labels), generator=case.generator())
        stream = Features(features.phi, features.labels, BATCH).subset(order)
        found[name] = {way: _streamed(calibrated, policy, stream, way == "running") for way in ("frozen", "running")}
    return found


def _streamed(calibrated: Calibrated, policy: suffice.Policy, stream: Features, running: bool) -> dict[str, float]:
    tracker, answers = drift.follow(policy, WINDOW), []
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
