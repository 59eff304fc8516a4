"""Spend a budget: thresholds with a mean cost on validation data that meets it."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from suffice import batches
from suffice.batches import Loader
from suffice.budget import optimal, thresholds, walk
from suffice.budget import scores as scoring
from suffice.budget.coin import hash_to_unit
from suffice.budget.mixture import TOLERANCE, mix
from suffice.budget.policy import Policy
from suffice.budget.scores import AnyScore
from suffice.budget.thresholds import choose, shares_of
from suffice.calibration.calibrated import Calibrated
from suffice.cost import Profile
from suffice.utils.modes import default_modes

Unit = Literal["fraction", "macs", "ms"]
Method = Literal["geometric", "optimal"]

_UNIT_NAMES = {"fraction": "multiply-adds", "macs": "multiply-adds", "ms": "milliseconds"}


@default_modes()
def allocate(
    calibrated: Calibrated,
    val_loader: Loader,
    budget: float,
    unit: Unit = "fraction",
    score: str | AnyScore = "confidence",
    *,
    method: Method = "geometric",
    profile: Profile | None = None,
) -> Policy:
    """Choose thresholds so that the mean cost on the validation data meets a budget.

    The budget is met to 0.5 %, or to one example if the data are few. Where tied scores rule that out, the policy is
    mixed of two sets of thresholds.

    Args:
        calibrated: Calibrated network that will run.
        val_loader: Batches like those in use; read once, labels not needed.
        budget: Mean cost per example, including the cost of the uncertainty: as a "fraction" of the cumulative cost of
            the last exit; in "macs", multiply-adds; or in "ms", milliseconds by the profile, for batches of its size
            that shrink as examples finish.
        unit: Unit of the budget.
        score: Score that decides when to stop: "confidence", "margin", "entropy", "aleatoric", "epistemic" or
            "patience"; for regression "variance" or "epistemic"; a function `(prediction, state) -> (N,)`, higher
            meaning more certain; or the result of `fit_exit_variation`, with its multiply-adds counted.
        method: "geometric", as in the paper: fractions proportional to q^k stop at exit k. "optimal": the thresholds
            with the greatest mean calibrated probability of a correct prediction (of several labels, the expected
            share that is right) on the validation data; they cost less than the budget if more would not help.
        profile: Times measured by `suffice.cost.profile` for this network; required for "ms", and kept for `run`.

    Raises:
        TypeError: For a network that is not calibrated, or a score that is no function `(prediction, state)`.
        ValueError: If the budget is below the cost of the first exit or above that of the last.

    Warns:
        UserWarning: If there are too few examples to come within 0.5 % of the budget.

    Example:
        >>> import torch
        >>> import suffice
        >>> network, x = suffice.models.convnet(num_classes=3, widths=(4, 8)), torch.rand(200, 1, 8, 8)
        >>> loader = [(x, torch.arange(200) % 3)]
        >>> calibrated = suffice.calibrate(network, None, loader, structure=None, temperature=False)
        >>> policy = suffice.allocate(calibrated, [x], budget=0.8)
        >>> policy.thresholds.shape, round(policy.expected / policy.budget, 1)
        (torch.Size([1]), 1.0)
    """
    walk.check_calibrated(calibrated)
    mean_cost, limit = _pricing(calibrated, budget, unit, profile, score)
    if method not in get_args(Method):
        raise ValueError(f"expected method to be one of {get_args(Method)}, got {method!r}")
    scored = _score_examples(calibrated, val_loader, scoring.resolve(score, calibrated.digest))
    pair = _bracketing_thresholds(scored, method, mean_cost, limit)
    mixture = mix(scored.scores, scored.coin, pair, mean_cost, limit)
    expected = mean_cost(mixture.shares)
    shortfall = limit - expected if method == "geometric" else 0.0
    if max(shortfall, expected - limit) > TOLERANCE * limit:
        warnings.warn(
            f"expected a mean cost of {limit:.4g} {_UNIT_NAMES[unit]} per example, got {expected:.4g} as the nearest "
            "on the validation data: there are too few examples, or too many with equal scores",
            stacklevel=3,
        )
    unit = "ms" if unit == "ms" else "macs"
    return Policy(
        mixture.thresholds, score, limit, expected, mixture.shares, calibrated.digest, unit, mixture.alternative,
        mixture.portion, profile,
    )  # fmt: skip


@dataclass(frozen=True)
class ScoredExamples:
    """Validation examples at every exit.

    Attributes:
        scores: Scores (N,) at each of K exits, float64.
        chances: `chance_correct` (N,) of the prediction at each exit, float64; NaN for regression.
        coin: Number (N,) in [0, 1) of each example.
    """

    scores: list[Tensor]
    chances: list[Tensor]
    coin: Tensor


def _pricing(
    calibrated: Calibrated, budget: float, unit: str, profile: Profile | None, score: str | AnyScore
) -> tuple[Callable[[Tensor], float], float]:
    """Return the mean cost as a function of shares (K,), and the checked budget in the same unit."""
    if unit not in get_args(Unit):
        raise ValueError(f"expected unit to be one of {get_args(Unit)}, got {unit!r}")
    if unit == "ms" and profile is None:
        raise ValueError("expected a profile for a budget in 'ms', got none; make one with suffice.cost.profile")
    costs = torch.tensor(scoring.priced(calibrated.costs.cumulative, score), dtype=torch.float64)

    def mean_cost(shares: Tensor) -> float:
        return profile.per_example(shares) if unit == "ms" and profile else float(shares @ costs)

    exit_costs = [mean_cost(shares) for shares in torch.eye(len(costs), dtype=torch.float64)]
    scale = exit_costs[-1] if unit == "fraction" else 1
    low, high = exit_costs[0] / scale, exit_costs[-1] / scale
    if len(exit_costs) == 1 and budget != low:
        raise ValueError(
            f"expected a network with two exits or more to spend a budget of {budget:.4g} on, got one with a single "
            "exit, where nothing can stop earlier; suffice.attach_exits adds some"
        )
    if not low <= budget <= high:
        scale_name = "fractions of the last exit" if unit == "fraction" else _UNIT_NAMES[unit]
        remedy = "; pass unit='macs' for a budget in multiply-adds" if unit == "fraction" and budget > high else ""
        raise ValueError(
            f"expected a budget between {low:.4g} (all stop at the first exit) and {high:.4g} (none stops early), in "
            f"{scale_name}, got {budget:.4g}{remedy}"
        )
    return mean_cost, min(max(budget * scale, exit_costs[0]), exit_costs[-1])


@torch.no_grad()
def _score_examples(calibrated: Calibrated, loader: Loader, score: AnyScore) -> ScoredExamples:
    """Compute scores and chances of a whole loader at every exit, and a coin for each example."""
    scores: list[list[Tensor]] = [[] for _ in calibrated.exits]
    chances: list[list[Tensor]] = [[] for _ in calibrated.exits]
    coins = []
    for visit in walk.visit_exits(calibrated, batches.read(loader, calibrated.network), score):
        scores[visit.exit].append(visit.scores[0])
        chances[visit.exit].append(visit.prediction.chance_correct)
        if visit.exit == 0:
            coins.append(hash_to_unit(visit.batch.inputs))
    return ScoredExamples(list(map(torch.cat, scores)), list(map(torch.cat, chances)), torch.cat(coins))


def _bracketing_thresholds(
    scored: ScoredExamples, method: Method, mean_cost: Callable[[Tensor], float], budget: float
) -> list[Tensor]:
    """Return the thresholds on either side of the budget, the cheaper ones first."""
    ranked = thresholds.rank(scored.scores)
    num_exits = len(ranked)
    if method == "geometric":
        family, ends = thresholds.geometric(ranked, num_exits), (-thresholds.STEEPEST, thresholds.STEEPEST)
    else:
        chances = torch.stack(scored.chances)
        if bool(chances.isnan().any()):
            raise ValueError("expected classes for method='optimal', got a regression; pass method='geometric'")
        prices = chances.new_tensor([mean_cost(shares) for shares in torch.eye(num_exits, dtype=torch.float64)])
        family, ends = optimal.most_accurate(ranked, chances, prices), optimal.price_range(prices)

    def realized_cost(values: Tensor) -> float:
        return mean_cost(shares_of(choose(scored.scores, values), num_exits))

    return thresholds.bracket(family, realized_cost, budget, ends)
