"""When to stop: a score and a threshold per exit, chosen so that the mean cost meets a budget.

The paper's rule: exit k answers a share proportional to q^k of the examples, the surest of those still there,
and the last exit takes the rest. The mean cost grows with q, so a budget determines q, and the thresholds
follow from the validation scores. Huang et al. 2018 (budgeted batch classification); Meronen et al. 2024.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from suffice import batches
from suffice.batches import Loader
from suffice.budget import scores as scoring
from suffice.budget.scores import Score
from suffice.calibration.calibrated import Calibrated

Unit = Literal["fraction", "macs"]
_EXACT = 0.005
"""Relative distance of the mean validation cost from the budget above which a warning is given."""


@dataclass(frozen=True)
class Policy:
    """An example stops at the first exit whose score reaches its threshold, and at the last in any case.

    Attributes:
        thresholds: (K − 1,), float64; −inf stops everything, +inf nothing.
        score: name or function `(prediction, state) -> (N,)`, higher is surer.
        budget: mean cost asked for, in multiply-adds per example.
        expected: mean cost on the validation data, in multiply-adds per example.
        shares: (K,), share of the validation data answered at each exit.
        made_for: `digest` of the calibrated network whose scores it judges.
    """

    thresholds: Tensor
    score: str | Score
    budget: float
    expected: float
    shares: Tensor
    made_for: str

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Configuration and tensors of an artifact.

        Raises:
            ValueError: if the score is a function, which cannot be written down; use one that has a name.
        """
        if not isinstance(self.score, str):
            raise ValueError(
                f"expected a score with a name to save, one of {sorted(scoring.SCORES)}, got a function; "
                "save what it is made of and allocate again"
            )
        configuration = {
            "made_for": self.made_for,
            "score": self.score,
            "budget_multiply_adds_per_example": self.budget,
            "expected_multiply_adds_per_example": self.expected,
        }
        return configuration, {"thresholds": self.thresholds, "shares": self.shares}

    @classmethod
    def from_parts(cls, configuration: dict[str, Any], tensors: dict[str, Tensor], network: object = None) -> "Policy":
        """The reverse of `parts`; the network is checked when the policy is run."""
        return cls(
            tensors["thresholds"],
            configuration["score"],
            configuration["budget_multiply_adds_per_example"],
            configuration["expected_multiply_adds_per_example"],
            tensors["shares"],
            configuration["made_for"],
        )


def allocate(
    calibrated: Calibrated,
    val_loader: Loader,
    budget: float,
    unit: Unit = "fraction",
    score: str | Score = "confidence",
) -> Policy:
    """Thresholds whose mean cost on the validation data meets a budget.

    Args:
        calibrated: the network that will run.
        val_loader: batches like those it will meet; read once, labels not needed.
        budget: mean cost per example, the uncertainty's own cost included: as a "fraction" of the cumulative
            cost of the last exit, or in "macs", multiply-adds.
        unit: of the budget.
        score: name of a score or a function `(prediction, state) -> (N,)`, higher is surer.

    Raises:
        ValueError: if the budget is below the cost of the first exit or above that of the last.

    Warns:
        UserWarning: if tied scores keep the mean cost further than 0.5 % from the budget.
    """
    costs = calibrated.costs.cumulative
    macs = _in_macs(budget, unit, costs)
    values = _validation_scores(calibrated, val_loader, scoring.resolve(score))
    thresholds = solve(values, costs, macs)
    taken = choose(values, thresholds).cpu()
    shares = torch.bincount(taken, minlength=len(costs)).double() / len(taken)
    expected = float(shares @ torch.tensor(costs, dtype=torch.float64))
    if abs(expected - macs) > _EXACT * macs:
        warnings.warn(
            f"asked for {macs:.4g} multiply-adds per example, the nearest on the validation data is "
            f"{expected:.4g}: too few examples, or tied scores, to cut finer",
            stacklevel=2,
        )
    return Policy(thresholds, score, macs, expected, shares, calibrated.digest)


def geometric_shares(log_q: float, exits: int) -> Tensor:
    """Shares (exits,) proportional to q^k, k = 1 … K, float64."""
    return (log_q * torch.arange(exits, dtype=torch.float64)).softmax(dim=0)


def thresholds_for(values: Sequence[Tensor], shares: Tensor) -> Tensor:
    """Thresholds (K − 1,) at which each exit answers its share of all examples, the surest still there.

    A threshold lies midway between the last example that stops and the first that goes on. Examples with
    equal scores stop or go on together, by the side that is nearer to the share; what an exit takes too much
    or too little is made good at the next, whose aim is the cumulative share.

    Args:
        values: K or K − 1 scores (N,), one for each exit.
        shares: (K,), summing to 1.
    """
    n = len(values[0])
    remaining = torch.ones(n, dtype=torch.bool, device=values[0].device)
    thresholds = []
    for scores, aim in zip(values, shares.cumsum(0)[:-1].tolist(), strict=False):
        wanted = round(aim * n) - (n - int(remaining.sum()))
        threshold = _cut(scores[remaining], wanted)
        remaining &= scores < threshold
        thresholds.append(threshold)
    return torch.tensor(thresholds, dtype=torch.float64)


def choose(values: Sequence[Tensor], thresholds: Tensor) -> Tensor:
    """Exit (N,) at which each example stops, from the scores (N,) of every exit, int64."""
    stops = [v >= t for v, t in zip(values, thresholds.tolist(), strict=False)]
    last = torch.ones_like(values[0], dtype=torch.bool)
    return torch.stack([*stops, last]).to(torch.uint8).argmax(dim=0)


def solve(values: Sequence[Tensor], costs: Sequence[int], budget: float) -> Tensor:
    """Thresholds (K − 1,) by geometric shares whose mean cost is nearest to the budget.

    Args:
        values: scores (N,) of each exit.
        costs: cumulative multiply-adds of each of K exits.
        budget: mean multiply-adds per example, between the first and the last cost.
    """
    price = torch.tensor(costs, dtype=torch.float64)

    def realised(log_q: float) -> tuple[float, Tensor]:
        thresholds = thresholds_for(values, geometric_shares(log_q, len(costs)))
        return float(price[choose(values, thresholds).cpu()].mean()), thresholds

    low, high = -_STEEPEST, _STEEPEST
    best = min((realised(low), realised(high)), key=lambda found: abs(found[0] - budget))
    for _ in range(50):
        middle = (low + high) / 2
        cost, thresholds = realised(middle)
        if abs(cost - budget) < abs(best[0] - budget):
            best = (cost, thresholds)
        low, high = (middle, high) if cost < budget else (low, middle)
    return best[1]


_STEEPEST = 50.0
"""|log q| at which all examples stop at the first or at the last exit."""


def _cut(scores: Tensor, wanted: int) -> float:
    """Threshold at which about `wanted` of the scores stop; ties together, on the nearer side."""
    wanted = max(0, min(wanted, len(scores)))
    if wanted == 0:
        return float("inf")
    if wanted == len(scores):
        return float("-inf")
    ordered = scores.sort(descending=True).values
    at = ordered[wanted - 1]
    above, through = int((ordered > at).sum()), int((ordered >= at).sum())
    stop = through if through - wanted <= wanted - above else above
    if stop in (0, len(scores)):
        return float("inf") if stop == 0 else float("-inf")
    last, first = float(ordered[stop - 1]), float(ordered[stop])
    middle = last / 2 + first / 2
    return middle if first < middle else last


def _in_macs(budget: float, unit: str, costs: Sequence[int]) -> float:
    if unit not in ("fraction", "macs"):
        raise ValueError(f"expected unit to be 'fraction' or 'macs', got {unit!r}")
    scale = costs[-1] if unit == "fraction" else 1
    low, high = costs[0] / scale, costs[-1] / scale
    if not low <= budget <= high:
        raise ValueError(
            f"expected a budget between {low:.4g} (all stop at the first exit) and {high:.4g} (none stops "
            f"early), in {'fractions of the last exit' if unit == 'fraction' else 'multiply-adds'}, "
            f"got {budget:.4g}"
        )
    return float(np.clip(budget * scale, costs[0], costs[-1]))


@torch.no_grad()
def _validation_scores(calibrated: Calibrated, loader: Loader, score: Score) -> list[Tensor]:
    """Scores (N,) of a whole loader at every exit; states are not kept."""
    values: list[list[Tensor]] = [[] for _ in calibrated.exits]
    for batch in batches.read(loader, calibrated.network):
        state, running = batch.inputs, None
        for k in range(len(calibrated.exits)):
            state, prediction, running = calibrated.step(k, state, running)
            values[k].append(scoring.evaluate(score, prediction, state, k))
    return [torch.cat(parts) for parts in values]
