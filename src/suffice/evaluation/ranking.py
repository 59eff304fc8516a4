"""Scores of exits beside each other: which one knows best where to stop, at equal cost?

Predictions and scores of every exit are made once, and all the rest is computed from them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from suffice import batches, metrics
from suffice.batches import Loader
from suffice.budget import scores, walk
from suffice.budget.scores import AnyScore
from suffice.calibration.calibrated import Calibrated
from suffice.evaluation.ladder import ladder
from suffice.evaluation.outcomes import Outcome


@dataclass(frozen=True)
class Ranking:
    """What a score says at every exit, K × (N,), of validation and of test examples; cumulative costs (K,) with it."""

    validation: list[Tensor]
    test: list[Tensor]
    costs: Sequence[int]


def rankings(
    calibrated: Calibrated, validation: Loader, test: Loader, named: Mapping[str, str | AnyScore]
) -> dict[str, Ranking]:
    """Each of the named scores of two loaders, each read once; labels are not needed."""
    of_validation, of_test = (_scored(calibrated, loader, named) for loader in (validation, test))
    return {
        name: Ranking(of_validation[name], of_test[name], scores.priced(calibrated.costs.cumulative, score))
        for name, score in named.items()
    }


@torch.no_grad()
def _scored(calibrated: Calibrated, loader: Loader, named: Mapping[str, str | AnyScore]) -> dict[str, list[Tensor]]:
    resolved = {name: scores.resolve(score, calibrated.digest) for name, score in named.items()}
    found: dict[str, list[list[Tensor]]] = {name: [[] for _ in calibrated.exits] for name in named}
    for batch in batches.read(loader, calibrated.network):
        in_flight = walk.begin(calibrated, batch.inputs, start=batch.start)
        for k in range(len(calibrated.exits)):
            in_flight, prediction = walk.step(calibrated, k, in_flight, scores.patience)
            for name, score in resolved.items():
                found[name][k].append(scores.evaluate(score, prediction, in_flight.state, k, in_flight.positions))
    return {name: [torch.cat(parts) for parts in exits] for name, exits in found.items()}


def by_score(test: Outcome, ranked: Mapping[str, Ranking]) -> list[dict[str, Any]]:
    """A row for each score: what stopping on it is worth at equal cost.

    Args:
        test: predictions of classes and labels.
        ranked: what each score says of the same examples.

    Returns:
        "score"; "eefp", of the exits but the last; "aurc", of ranking each exit's own answers, a mean over all exits;
        "accuracy" and "macs", means over the budgets of the ladder, under which every score answers the same shares
        at each exit on the validation data, and "curve", both for each budget.
    """
    hits = torch.stack(test.hits)
    rows = []
    for name, ranking in ranked.items():
        costs = torch.tensor(ranking.costs, dtype=torch.float64)
        curve = [
            {"macs": float(costs[exits].mean()), "accuracy": float(hits.gather(0, exits[None]).double().mean())}
            for _, exits in ladder(ranking.validation, ranking.test)
        ]
        areas = [float(metrics.aurc(score, hit)) for score, hit in zip(ranking.test, hits, strict=True)]
        row = {"score": name, "eefp": float(metrics.eefp(ranking.test, test.hits)), "aurc": sum(areas) / len(areas)}
        means = {measure: sum(point[measure] for point in curve) / len(curve) for measure in ("accuracy", "macs")}
        rows.append({**row, **means, "curve": curve})
    return rows
