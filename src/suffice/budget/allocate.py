"""Spend a budget: thresholds with a mean cost on validation data that meets it."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from suffice import batches
from suffice.batches import Loader
from suffice.budget import scores as scoring
from suffice.budget import walk
from suffice.budget.coin import coin_of
from suffice.budget.policy import Policy
from suffice.budget.prices import Prices, price
from suffice.budget.scores import AnyScore
from suffice.budget.thresholds import families, optimal
from suffice.budget.thresholds.families import choose, shares_of
from suffice.budget.thresholds.mixture import TOLERANCE, mix
from suffice.calibration.calibrated import Calibrated
from suffice.cost import Profile
from suffice.utils import arguments
from suffice.utils.modes import default_modes

Unit = Literal["fraction", "macs", "ms"]
Method = Literal["geometric", "optimal"]

MeanCost = Callable[[Tensor], float]
"""Function from the exits (N,) where the validation examples stop to their mean cost."""

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
            the last exit, its mean over the validation data; in "macs", multiply-adds; or in "ms", milliseconds by the
            profile, for batches of its size and shape that shrink as examples finish. In multiply-adds an example costs
            what its own shape does, so that batches may differ in length.
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
        ValueError: If the budget is below the cost of the first exit or above that of the last, or it is in "ms" and
            the inputs differ in shape.
        RuntimeError: If the multiply-adds of inputs of a new shape cannot be counted.

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
    _check(budget, unit, method, profile)
    scored = _score_examples(calibrated, val_loader, scoring.resolve(score, calibrated.digest))
    mean_cost = _mean_cost(scored.prices, profile if unit == "ms" else None)
    limit = _limit(mean_cost, scored, budget, unit)
    pair = _bracketing_thresholds(scored, method, mean_cost, limit)
    mixture = mix(scored.scores, scored.coin, pair, mean_cost, limit)
    expected, shares = mean_cost(mixture.exit_index), shares_of(mixture.exit_index, len(scored.scores))
    shortfall = limit - expected if method == "geometric" else 0.0
    if max(shortfall, expected - limit) > TOLERANCE * limit:
        warnings.warn(
            f"expected a mean cost of {limit:.4g} {_UNIT_NAMES[unit]} per example, got {expected:.4g} as the nearest "
            "on the validation data: there are too few examples, or too many with equal scores",
            stacklevel=3,
        )
    unit = "ms" if unit == "ms" else "macs"
    return Policy(
        mixture.thresholds, score, limit, expected, shares, calibrated.digest, unit, mixture.alternative,
        mixture.portion, profile,
    )  # fmt: skip


@dataclass(frozen=True)
class ScoredExamples:
    """Validation examples at every exit.

    Attributes:
        scores: Scores (N,) at each of K exits, float64.
        chances: `chance_correct` (N,) of the prediction at each exit, float64; NaN for regression.
        coin: Number (N,) in [0, 1) of each example.
        prices: Cost of each example at each exit.
    """

    scores: list[Tensor]
    chances: list[Tensor]
    coin: Tensor
    prices: Prices


def _check(budget: float, unit: str, method: str, profile: Profile | None) -> None:
    """Raise an error for arguments that are invalid for any data."""
    arguments.number("budget", budget)
    if profile is not None and not isinstance(profile, Profile):
        raise TypeError(f"expected a profile of suffice.cost.profile, got {profile!r}")
    if unit not in get_args(Unit):
        raise ValueError(f"expected unit to be one of {get_args(Unit)}, got {unit!r}")
    if unit == "ms" and profile is None:
        raise ValueError("expected a profile for a budget in 'ms', got none; make one with suffice.cost.profile")
    if method not in get_args(Method):
        raise ValueError(f"expected method to be one of {get_args(Method)}, got {method!r}")
    if unit == "fraction" and budget > 1:
        raise ValueError(
            f"expected a budget between 0 and 1 (none stops early), in fractions of the last exit, got {budget:.4g}; "
            "pass unit='macs' for a budget in multiply-adds"
        )


def _mean_cost(prices: Prices, profile: Profile | None) -> MeanCost:
    """Return the mean cost as a function of the exits (N,) where the examples stop, in milliseconds by a profile."""
    groups, exits = prices.table.shape
    if profile is None:
        return prices.mean
    if groups > 1:
        raise ValueError(
            f"expected inputs of one shape for a budget in 'ms', as a profile is measured for one, got {groups} that "
            "differ in cost; pass batches of the profile's shape, or unit='macs'"
        )
    return lambda exit_index: profile.per_example(shares_of(exit_index, exits))


def _limit(mean_cost: MeanCost, scored: ScoredExamples, budget: float, unit: str) -> float:
    """Return the checked budget in the unit of the mean cost."""
    stop = torch.zeros_like(scored.prices.group)
    first, last = mean_cost(stop), mean_cost(stop + len(scored.scores) - 1)
    scale = last if unit == "fraction" else 1
    low, high = first / scale, last / scale
    if len(scored.scores) == 1 and budget != low:
        raise ValueError(
            f"expected a network with two exits or more to spend a budget of {budget:.4g} on, got one with a single "
            "exit, where nothing can stop earlier; suffice.attach_exits adds some"
        )
    if not low <= budget <= high:
        scale_name = "fractions of the last exit" if unit == "fraction" else _UNIT_NAMES[unit]
        raise ValueError(
            f"expected a budget between {low:.4g} (all stop at the first exit) and {high:.4g} (none stops early), in "
            f"{scale_name}, got {budget:.4g}"
        )
    return min(max(budget * scale, first), last)


@torch.no_grad()
def _score_examples(calibrated: Calibrated, loader: Loader, score: AnyScore) -> ScoredExamples:
    """Compute scores and chances of a whole loader at every exit, and a coin for each example."""
    scores: list[list[Tensor]] = [[] for _ in calibrated.exits]
    chances: list[list[Tensor]] = [[] for _ in calibrated.exits]
    coins, costs, sizes = [], [], []
    for visit in walk.visit_exits(calibrated, batches.read(loader, calibrated.network), score):
        scores[visit.exit].append(visit.scores[0])
        chances[visit.exit].append(visit.prediction.chance_correct)
        if visit.exit == 0:
            coins.append(coin_of(calibrated.network, visit.batch.inputs))
            costs.append(price(calibrated, visit.batch.inputs, score))
            sizes.append(visit.batch.size)
    prices = Prices.of_batches(costs, sizes)
    return ScoredExamples(list(map(torch.cat, scores)), list(map(torch.cat, chances)), torch.cat(coins), prices)


def _bracketing_thresholds(scored: ScoredExamples, method: Method, mean_cost: MeanCost, budget: float) -> list[Tensor]:
    """Return the thresholds on either side of the budget, the cheaper ones first."""
    ranked = families.rank(scored.scores)
    num_exits = len(ranked)
    if method == "geometric":
        family, ends = families.geometric(ranked, num_exits), (-families.STEEPEST, families.STEEPEST)
    else:
        chances = torch.stack(scored.chances)
        if bool(chances.isnan().any()):
            raise ValueError("expected classes for method='optimal', got a regression; pass method='geometric'")
        prices = _per_example(mean_cost, scored).to(chances.device)
        family, ends = optimal.most_accurate(ranked, chances, prices), optimal.price_range(prices)

    def realized_cost(values: Tensor) -> float:
        return mean_cost(choose(scored.scores, values))

    return families.bracket(family, realized_cost, budget, ends)


def _per_example(mean_cost: MeanCost, scored: ScoredExamples) -> Tensor:
    """Return the cost (K, N) of each example if it stops at each exit, or (K, 1) where all cost the same, float64."""
    if len(scored.prices.table) > 1:
        return scored.prices.per_example()
    exits = [torch.full_like(scored.prices.group, k) for k in range(len(scored.scores))]
    return torch.tensor([[mean_cost(exit_index)] for exit_index in exits], dtype=torch.float64)
