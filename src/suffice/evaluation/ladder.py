"""The paper's ladder of 39 budgets: q = p/20, p = 1 … 39, exit k answers a share proportional to q^k.

Thresholds come from validation scores alone.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from suffice import metrics
from suffice.budget.thresholds import choose, geometric_shares, rank, thresholds_for
from suffice.calibration.calibrated import Calibrated
from suffice.evaluation.outcomes import Outcome
from suffice.prediction import Regression, concatenate

LADDER = tuple(p / 20 for p in range(1, 40))
"""q of the paper's 39 budgets."""


@dataclass(frozen=True)
class Budgeted:
    """One budget of the ladder on the test set.

    Attributes:
        prediction: the answer of each example's exit, a `Prediction` or a `Regression`.
        exits: (N,), that exit.
        macs: mean multiply-adds per example.
        requested: those that the ladder's shares would cost.
    """

    prediction: Any
    exits: Tensor
    macs: float
    requested: float


def over_budgets(calibrated: Calibrated, validation: Outcome, test: Outcome) -> Iterator[Budgeted]:
    """Answers under each budget of the ladder, one at a time; thresholds come from the validation outcome alone."""
    costs = torch.tensor(calibrated.costs.cumulative, dtype=torch.float64)
    every = concatenate(test.predictions)
    for shares, exits in ladder(validation.scores, test.scores):
        answer = every.take(exits * len(exits) + torch.arange(len(exits)))
        yield Budgeted(answer, exits, float(costs[exits].mean()), float(shares @ costs))


def ladder(validation: Sequence[Tensor], test: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Shares (K,) asked for and exits (N,) of the test examples under each budget, from the scores of every exit."""
    ranked = rank(validation)
    for q in LADDER:
        shares = geometric_shares(math.log(q), len(test))
        yield shares, choose(test, thresholds_for(ranked, shares))


def averaged(rows: Sequence[Mapping[str, float]], test: Outcome) -> dict[str, float]:
    """Each measure averaged over the budgets' rows, and of classes EEFP of the exits' scores, which has no budget."""
    means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    if isinstance(test.predictions[0], Regression):
        return means
    return {**means, "eefp": float(metrics.eefp(test.scores, test.hits))}
