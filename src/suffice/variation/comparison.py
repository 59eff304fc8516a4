"""Estimates of the dropout variation beside each other, against an independent truth of many passes.

The rows: dropout itself with 10 and with 100 passes, the delta rule, an estimator that sees the prediction
alone, and the estimator that sees the activation strengths. The truth's passes are shared with none of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from suffice.batches import Loader
from suffice.variation.dropout import MCDropout
from suffice.variation.estimator import VariationEstimator
from suffice.variation.fitting import fit_variation
from suffice.variation.propagation import delta_rule

TARGET = "std"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Fit:
    """What estimators learn from: loaders (labels not needed), the teacher, and the layers that they see."""

    train: Loader
    validation: Loader
    teacher: MCDropout
    layers: Sequence[str] | None = None


@dataclass(frozen=True)
class Comparison:
    """The fitted estimator, the truth (N,) and a row for each estimate: name, passes, R², Spearman, estimate."""

    estimator: VariationEstimator
    truth: Tensor
    rows: list[dict[str, Any]]


def compare(
    model: nn.Module,
    fit: Fit,
    x: Sequence[Tensor],
    *,
    truth_passes: int,
    generator: torch.Generator,
    progress: Progress,
) -> Comparison:
    """Fit the estimators and judge every estimate of the standard deviation of the top class's probability.

    Args:
        model: a trained classifier with dropout.
        fit: what to learn from, disjoint from x.
        x: batches to judge on.
        truth_passes: dropout passes that make the truth.
        generator: randomness of all passes and fits.
        progress: called with what is done, how much of it, and how much there is.
    """

    def passes(count: int, what: str) -> Tensor:
        teacher, parts = replace(fit.teacher, passes=count), []
        for done, batch in enumerate(x, start=1):
            parts.append(teacher(model, batch, generator=generator)[TARGET])
            progress(what, done, len(x))
        return torch.cat(parts)

    def fitted(layers: Sequence[str] | None, what: str) -> VariationEstimator:
        progress(what, 0, 1)
        estimator = fit_variation(
            model,
            fit.train,
            fit.validation,
            teacher=fit.teacher,
            layers=layers,
            target=TARGET,
            generator=generator,
        )
        progress(what, 1, 1)
        return estimator

    prediction_only = fitted([], "fit on the prediction")
    estimator = fitted(fit.layers, "fit the estimator")
    estimates = [
        ("dropout, T = 10", "10", passes(10, "dropout, T = 10")),
        ("dropout, T = 100", "100", passes(100, "dropout, T = 100")),
        (
            "delta rule",
            "1 and a gradient",
            torch.cat([delta_rule(model, batch, fit.teacher.at, fit.teacher.rate) for batch in x]),
        ),
        ("prediction only", "1", torch.cat([prediction_only.estimate(batch).variation for batch in x])),
        ("estimator", "1", torch.cat([estimator.estimate(batch).variation for batch in x])),
    ]
    truth = passes(truth_passes, f"dropout, T = {truth_passes}")
    return Comparison(estimator, truth, [_row(name, cost, values, truth) for name, cost, values in estimates])


def _row(name: str, passes: str, estimate: Tensor, truth: Tensor) -> dict[str, Any]:
    from scipy.stats import spearmanr
    from sklearn.metrics import r2_score

    return {
        "name": name,
        "passes": passes,
        "r2": float(r2_score(truth.double(), estimate.double())),
        "spearman": float(spearmanr(truth, estimate).statistic),
        "estimate": estimate.tolist(),
    }
