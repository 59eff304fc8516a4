"""Regressions of few examples: the posterior's variance beside that of the noise, and as a rule for what to measure.

The data are scikit-learn's table on the progression of diabetes, 442 patients with ten features.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from suffice import evaluation, metrics
from suffice.reproduce.posterior.comparison import Comparison, calibrate, classifier, fit, ridge

TEST, VALIDATION = 142, 50
COVERAGE, LEVEL = "distance from 95 % coverage", 0.95
MEASURES = {"nll": "NLL", "crps": "CRPS", "coverage": COVERAGE}
CENTER, SCALE = 150.0, 75.0
"""Units of the targets, which are between 25 and 346."""
INITIAL, ROUNDS = 12, 20
"""Patients that are known at first, and patients that are acquired one by one."""

Data = tuple[Tensor, Tensor]
"""Features (N, 10) and targets (N, 1)."""


def of_diabetes(seed: int, *, examples: int) -> list[Comparison]:
    """Compare a linear regression without validation data, and a network with a temperature, with few patients."""
    x, y, order = _shuffled(seed)
    train, test, validation = order[:examples], order[-TEST:], order[-TEST - VALIDATION : -TEST]
    parts = {name: (x[rows], y[rows]) for name, rows in (("train", train), ("validation", validation), ("test", test))}
    linear = ridge(*parts["train"])
    network = fit(classifier(x.shape[1], 1, seed), *parts["train"], mse_loss)
    return [
        *_compare("linear, posterior", "noise alone", linear, parts, seed, tuning="evidence", temperature=False),
        *_compare("network, posterior and temperature", "noise and a temperature", network, parts, seed),
    ]


def _compare(
    posterior: str, instead_of: str, model: nn.Module, parts: dict[str, Data], seed: int, **choices: Any
) -> list[Comparison]:
    measures = {}
    for link in ("plugin", "sampled"):
        validation = [parts["validation"]] if choices.get("temperature", True) else None
        loaders = [parts["train"]], validation
        calibrated = calibrate(model, *loaders, seed, likelihood="regression", link=link, **choices)
        measured = evaluation.per_exit(evaluation.predict(calibrated, [parts["test"]]))[-1]
        measures[link] = {**measured, "coverage": abs(measured["coverage_95"] - LEVEL)}
    return [
        Comparison(posterior, instead_of, title, measures["plugin"][name], measures["sampled"][name])
        for name, title in MEASURES.items()
    ]


def of_acquisition(seed: int) -> list[Comparison]:
    """Compare patients with the greatest variance of the mean with random ones, by the RMSE of a linear regression."""
    rmse = {rule: _acquire(rule, seed) for rule in ("random", "variance")}
    return [Comparison("patients of the greatest variance", "at random", "RMSE", rmse["random"], rmse["variance"])]


def _acquire(rule: str, seed: int) -> float:
    """Return the RMSE after the last acquisition."""
    x, y, order = _shuffled(seed)
    known, pool, test = order[:INITIAL], order[INITIAL:-TEST], order[-TEST:]
    for _ in range(ROUNDS):
        chosen = 0  # the pool is in random order
        if rule == "variance":
            model = ridge(x[known], y[known])
            loader = [(x[known], y[known])]
            calibrated = calibrate(model, loader, None, seed, likelihood="regression", tuning="evidence")
            chosen = int(calibrated(x[pool])[-1].epistemic_variance[:, 0].argmax())
        known = torch.cat([known, pool[chosen : chosen + 1]])
        pool = torch.cat([pool[:chosen], pool[chosen + 1 :]])
    with torch.no_grad():
        return float(metrics.rmse(ridge(x[known], y[known])(x[test]), y[test]))


def _shuffled(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return features and targets in fixed units, which make their deviations about 1, and a random order."""
    from sklearn.datasets import load_diabetes

    table, target = (torch.from_numpy(array).float() for array in load_diabetes(return_X_y=True))
    x, y = table * math.sqrt(len(table)), (target[:, None] - CENTER) / SCALE
    return x, y, torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
