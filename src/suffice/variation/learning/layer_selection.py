"""The fewest layers whose strengths say nearly as much as those of all."""

from collections.abc import Sequence
from typing import Any

import torch

from suffice.variation.features.reader import Reader
from suffice.variation.features.scaling import Scaling
from suffice.variation.learning import mlp, ridge
from suffice.variation.learning.fit import Fit
from suffice.variation.learning.objective import Problem

_WITHIN = 0.01
"""How much of the R² of all layers a subset may cost."""


def smallest(problem: Problem, reader: Reader, macs: int) -> tuple[Fit, list[int], tuple[dict[str, Any], ...]]:
    """The fit on the fewest layers within 1 % of all, which those are, and the table of what was tried."""

    def tried(layers: Sequence[int]) -> tuple[Fit, float, dict[str, Any]]:
        fit = problem.fit(layers)
        quality = problem.quality(fit(problem.unseen.features[:, problem.unseen.columns(layers)]))
        row = {
            "layers": [reader.layers[i] for i in layers],
            "strengths": sum(problem.seen.widths[1 + i] for i in layers),
            "macs": fit.macs,
            "cost": fit.macs / max(macs, 1),
            "r_squared": quality,
        }
        return fit, quality, row

    order = _greedy(problem, len(reader.layers))
    fit, everything, row = tried(sorted(order))
    table = [row]
    for size in range(len(order)):
        layers = sorted(order[:size])
        found, quality, row = tried(layers)
        table.insert(size, row)
        if quality >= everything - _WITHIN * abs(everything):
            return found, layers, tuple(table)
    return fit, sorted(order), tuple(table)


def _greedy(problem: Problem, count: int) -> list[int]:
    """All layers in the order in which each, added to those before, helps ridge regression most."""
    scaling = Scaling.fit(problem.seen.features, problem.seen.widths[0])
    group = torch.repeat_interleave(torch.arange(count + 1), torch.tensor(problem.seen.widths))[scaling.columns.cpu()]
    inputs, unseen = (scaling.apply(part.features).inputs for part in (problem.seen, problem.unseen))
    statistics = ridge.init(inputs.shape[1], inputs.device)
    for x, y in zip(inputs.split(4096), problem.seen.labels[:, 0].split(4096), strict=True):
        statistics = ridge.update(statistics, x, y / problem.unit)
    labels = problem.unseen.labels.mean(dim=1) / problem.unit

    def loss(layers: list[int]) -> float:
        wanted = torch.tensor([0, *(layer + 1 for layer in layers)])
        columns = torch.isin(group, wanted).nonzero()[:, 0].to(inputs.device)
        if not len(columns):
            return float("inf")
        weights = ridge.fit(ridge.select(statistics, columns), (unseen[:, columns], labels))
        return float(mlp.qlike(mlp.forward(weights, unseen[:, columns]), labels))

    order: list[int] = []
    while len(order) < count:
        order.append(min((i for i in range(count) if i not in order), key=lambda i: loss([*order, i])))
    return order
