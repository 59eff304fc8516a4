"""Selection of the fewest layers whose strengths are nearly as informative as those of all layers."""

from collections.abc import Sequence
from typing import Any

import torch

from suffice.variation.features.reader import Reader
from suffice.variation.features.scaling import Scaling
from suffice.variation.learning import mlp, ridge
from suffice.variation.learning.fitted_mlp import FittedMLP
from suffice.variation.learning.objective import Objective

_TOLERANCE = 0.01
"""Fraction of the R² of all layers that a subset may lose."""


def select_layers(
    objective: Objective, reader: Reader, macs: int, costs: Sequence[int]
) -> tuple[FittedMLP, list[int], tuple[dict[str, Any], ...]]:
    """Fit the fewest layers with an R² within 1 % of that of all layers.

    Args:
        objective: Rows and hyperparameters of the fits.
        reader: Reader of all layers.
        macs: Multiply-adds of the model per example, which costs are relative to.
        costs: Multiply-adds per example of reading each layer.

    Returns:
        The fit, the positions of its layers, and a row for each subset that was tried, as in `Quality.subsets`.
    """

    def fit_subset(layers: Sequence[int]) -> tuple[FittedMLP, float, dict[str, Any]]:
        fitted = objective.fit(layers)
        quality = objective.quality(fitted(objective.stopping.features[:, objective.stopping.columns(layers)]))
        layer_macs = fitted.macs + sum(costs[i] for i in layers)
        row = {
            "layers": [reader.layers[i] for i in layers],
            "strengths": sum(objective.train.widths[1 + i] for i in layers),
            "macs": layer_macs,
            "cost": layer_macs / max(macs, 1),
            "r_squared": quality,
        }
        return fitted, quality, row

    order = _greedy_order(objective, len(reader.layers))
    fitted_all, quality_of_all, row = fit_subset(sorted(order))
    table = [row]
    for size in range(len(order)):
        layers = sorted(order[:size])
        fitted, quality, row = fit_subset(layers)
        table.insert(size, row)
        if quality >= quality_of_all - _TOLERANCE * abs(quality_of_all):
            return fitted, layers, tuple(table)
    return fitted_all, sorted(order), tuple(table)


def _greedy_order(objective: Objective, count: int) -> list[int]:
    """Return all layers in the order in which each, added to those before it, helps a ridge regression most."""
    train, stopping = objective.train, objective.stopping
    scaling = Scaling.fit(train.features, train.output_width())
    group = torch.repeat_interleave(torch.arange(count + 1), torch.tensor(train.widths))[scaling.columns.cpu()]
    inputs, stopping_inputs = (scaling.apply(rows.features).inputs for rows in (train, stopping))
    statistics = ridge.init(inputs.shape[1], inputs.device)
    for x, y in zip(inputs.split(4096), train.labels[:, 0].split(4096), strict=True):
        statistics = ridge.update(statistics, x, y / objective.unit)
    labels = stopping.labels.mean(dim=1) / objective.unit

    def loss(layers: list[int]) -> float:
        groups = torch.tensor([0, *(layer + 1 for layer in layers)])
        columns = torch.isin(group, groups).nonzero()[:, 0].to(inputs.device)
        if not len(columns):
            return float("inf")
        weights = ridge.fit(ridge.select(statistics, columns), (stopping_inputs[:, columns], labels))
        return float(mlp.qlike(mlp.forward(weights, stopping_inputs[:, columns]), labels))

    order: list[int] = []
    while len(order) < count:
        order.append(min((i for i in range(count) if i not in order), key=lambda i: loss([*order, i])))
    return order
