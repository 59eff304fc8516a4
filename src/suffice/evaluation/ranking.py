"""Comparison of scores at equal cost: which selects exits best.

Predictions and scores of every exit are computed once, and everything else from them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from suffice import batches, metrics
from suffice.batches import Loader
from suffice.budget import scores, walk
from suffice.budget.prices import Prices, price
from suffice.budget.scores import AnyScore
from suffice.calibration.calibrated import Calibrated
from suffice.evaluation.ladder import ladder
from suffice.evaluation.outcomes import Outcome


@dataclass(frozen=True)
class Ranking:
    """One score at every exit.

    Attributes:
        validation: Scores (N,) of the validation examples at each of K exits.
        test: Scores (N,) of the test examples at each exit.
        prices: Multiply-adds of each test example at each exit, including those of the score.
    """

    validation: list[Tensor]
    test: list[Tensor]
    prices: Prices


def rankings(
    calibrated: Calibrated, validation: Loader, test: Loader, named: Mapping[str, str | AnyScore]
) -> dict[str, Ranking]:
    """Compute each of the named scores on two loaders, each read once; labels are not needed."""
    (val_scores, _), (test_scores, prices) = (
        _compute_scores(calibrated, loader, named) for loader in (validation, test)
    )
    return {name: Ranking(val_scores[name], test_scores[name], prices[name]) for name in named}


@torch.no_grad()
def _compute_scores(
    calibrated: Calibrated, loader: Loader, named: Mapping[str, str | AnyScore]
) -> tuple[dict[str, list[Tensor]], dict[str, Prices]]:
    """Compute each named score at every exit, K × (N,), and the examples' costs with it, in one pass over a loader."""
    resolved = [scores.resolve(score, calibrated.digest) for score in named.values()]
    parts: dict[str, list[list[Tensor]]] = {name: [[] for _ in calibrated.exits] for name in named}
    costs: dict[str, list[tuple[int, ...]]] = {name: [] for name in named}
    sizes = []
    for visit in walk.visit_exits(calibrated, batches.read(loader, calibrated.network), *resolved):
        for name, values in zip(named, visit.scores, strict=True):
            parts[name][visit.exit].append(values)
        if visit.exit == 0:
            sizes.append(visit.batch.size)
            for name, score in named.items():
                costs[name].append(price(calibrated, visit.batch.inputs, score))
    prices = {name: Prices.of_batches(rows, sizes) for name, rows in costs.items()}
    return {name: list(map(torch.cat, exit_parts)) for name, exit_parts in parts.items()}, prices


def by_score(test: Outcome, ranked: Mapping[str, Ranking]) -> list[dict[str, Any]]:
    """Compute one row per score, with the accuracy of stopping by it at equal cost.

    Args:
        test: Predictions of classes with their labels.
        ranked: Each score for the same examples.

    Returns:
        "score": its name. "eefp": EEFP of the exits but the last. "aurc": AURC of each exit's own predictions, averaged
        over all exits. "accuracy" and "macs": means over the budgets of the ladder, where all scores stop the same
        shares at each exit on the validation data. "curve": both for each budget.
    """
    hits = torch.stack(test.hits)
    rows = []
    for name, ranking in ranked.items():
        curve = [
            {"macs": ranking.prices.mean(index), "accuracy": float(hits.gather(0, index[None]).double().mean())}
            for _, index in ladder(ranking.validation, ranking.test)
        ]
        areas = [float(metrics.aurc(score, hit)) for score, hit in zip(ranking.test, hits, strict=True)]
        row = {"score": name, "eefp": float(metrics.eefp(ranking.test, test.hits)), "aurc": sum(areas) / len(areas)}
        means = {measure: sum(point[measure] for point in curve) / len(curve) for measure in ("accuracy", "macs")}
        rows.append({**row, **means, "curve": curve})
    return rows
