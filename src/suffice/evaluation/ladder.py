"""The paper's ladder of 39 budgets: q = p/20 for p = 1 … 39, with shares proportional to q^k at exit k.

Thresholds are chosen on validation scores alone.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from suffice import metrics
from suffice.budget.thresholds.families import choose, geometric_shares, rank, thresholds_for
from suffice.calibration.calibrated import Calibrated
from suffice.evaluation.outcomes import Outcome
from suffice.prediction import concatenate

LADDER = tuple(p / 20 for p in range(1, 40))
"""Values of q for the 39 budgets of the paper."""


@dataclass(frozen=True)
class Budgeted:
    """Predictions of the test set under one budget of the ladder.

    Attributes:
        prediction: Prediction of the exit where each example stops, a `Prediction`, a `Multilabel` or a `Regression`.
        exit_index: Number of that exit (N,), int64.
        macs: Mean multiply-adds per example.
        requested: Mean multiply-adds per example of the ladder's shares, at the validation data's mean cost of each
            exit.
    """

    prediction: Any
    exit_index: Tensor
    macs: float
    requested: float


def over_budgets(calibrated: Calibrated, validation: Outcome, test: Outcome) -> Iterator[Budgeted]:
    """Yield the predictions under each budget of the ladder, with thresholds from the validation outcome alone."""
    full = [validation.prices.mean(torch.full_like(validation.prices.group, k)) for k in range(len(calibrated.exits))]
    costs = torch.tensor(full, dtype=torch.float64)
    all_exits = concatenate(test.predictions)
    for shares, exit_index in ladder(validation.scores, test.scores):
        prediction = all_exits.take(exit_index * len(exit_index) + torch.arange(len(exit_index)))
        yield Budgeted(prediction, exit_index, test.prices.mean(exit_index), float(shares @ costs))


def ladder(validation: Sequence[Tensor], test: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the requested shares (K,) and the exits (N,) of the test examples under each budget.

    Args:
        validation: Scores of the validation examples at each of K exits.
        test: Scores (N,) of the test examples at each exit.
    """
    ranked = rank(validation)
    for q in LADDER:
        shares = geometric_shares(math.log(q), len(test))
        yield shares, choose(test, thresholds_for(ranked, shares))


def averaged(rows: Sequence[Mapping[str, float]], test: Outcome) -> dict[str, float]:
    """Average each measure over the budgets and, for classes, add EEFP, which has no budget."""
    means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    if not test.is_classification:
        return means
    return {**means, "eefp": float(metrics.eefp(test.scores, test.hits))}
