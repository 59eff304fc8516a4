"""Guarantees on the loss of stopping early, relative to the last exit; `certification` has the mathematics."""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor

from suffice import batches
from suffice.batches import Batch, Loader
from suffice.budget import scores as scoring
from suffice.budget import walk
from suffice.budget.certification import GREATEST, RiskLoss, count_certified, examples_needed, losses_at_levels
from suffice.budget.policy import Policy, Promise
from suffice.budget.prices import Prices, price
from suffice.budget.scores import AnyScore
from suffice.budget.thresholds.families import choose, shares_of
from suffice.budget.walk import Visit
from suffice.calibration import likelihoods
from suffice.calibration.calibrated import Calibrated
from suffice.utils import arguments
from suffice.utils.modes import default_modes


@default_modes()
def control_risk(
    calibrated: Calibrated,
    val_loader: Loader,
    max_loss: float = 0.01,
    confidence: float | None = 0.95,
    loss: RiskLoss = "accuracy",
    score: str | AnyScore = "confidence",
    *,
    levels: Sequence[float] | None = None,
) -> Policy:
    """Choose the most permissive policy with a mean loss, relative to the last exit, guaranteed to be at most a bound.

    The loss of an example is how much stopping early makes it worse, and never negative: "accuracy", 1 if the last
    exit is correct and the exit where it stops is not, else 0; "brier", max(0, Σ_c (p_c − [c = y])² at the exit where
    it stops minus that at the last). So accuracy falls, or the mean Brier score rises, by no more than the mean loss.
    For several labels, the loss "accuracy" is how much smaller the share of labels that are right becomes, and "brier"
    is the mean over the labels. There is no loss of whole sets of labels: where the last exit has one label wrong, as
    for most examples with many labels, it would allow any error.

    The guarantee assumes that validation and future examples are drawn independently from one distribution, and that
    neither the network, nor its calibration, nor the levels have been fitted to the validation examples:

    - With a confidence 1 − α: with at least this probability over the draw of the validation set, the expected loss of
      future examples (not the mean of a finite batch) is at most `max_loss`.
    - With `confidence=None`: the expected loss of future examples is at most `max_loss` on average over draws of the
      validation set; for a single validation set it may be larger.

    It does not hold when inputs change, nor for a single class or group. The examples in `val_loader` must not have
    been used for anything else, including tuning temperatures or priors in `calibrate`.

    Args:
        calibrated: Calibrated network that will run.
        val_loader: Labeled batches, read once; for "agreement" labels are neither needed nor read.
        max_loss: Bound ε on the mean loss, in (0, 1).
        confidence: Confidence 1 − α in (0, 1), or None for a bound in expectation.
        loss: "accuracy", "brier" or "agreement".
        score: Score that decides when to stop, as for `allocate`.
        levels: Candidate thresholds, falling from conservative to permissive and chosen without `val_loader`. Required
            unless score is a name with levels of its own.

    Raises:
        TypeError: For a network that is not calibrated.
        ValueError: For a bound or a confidence outside (0, 1), levels that do not fall, or a regression.
        RuntimeError: If the multiply-adds of inputs of a new shape cannot be counted.

    Warns:
        UserWarning: If the guarantee holds for no level, so that the policy never stops early; the message names the
            number of examples from which a loss of 0 on all of them would suffice.

    Example:
        >>> import torch
        >>> import suffice
        >>> network, x = suffice.models.convnet(num_classes=3, widths=(4, 8)), torch.rand(200, 1, 8, 8)
        >>> loader = [(x, torch.arange(200) % 3)]
        >>> calibrated = suffice.calibrate(network, None, loader, structure=None, temperature=False)
        >>> policy = suffice.control_risk(calibrated, loader, max_loss=0.5, confidence=0.9)
        >>> policy.promise
        Promise(loss='accuracy', max_loss=0.5, confidence=0.9)
        >>> suffice.control_risk(calibrated, [x], max_loss=0.5, loss="agreement").promise.loss  # without labels
        'agreement'
    """
    certified = _certify(calibrated, val_loader, max_loss, confidence, loss, score, levels)
    return certified.policy(certified.levels[-1])


@default_modes()
def certified_policies(
    calibrated: Calibrated,
    val_loader: Loader,
    max_loss: float = 0.01,
    confidence: float | None = 0.95,
    loss: RiskLoss = "accuracy",
    score: str | AnyScore = "confidence",
    *,
    levels: Sequence[float] | None = None,
    count: int = 6,
) -> list[Policy]:
    """Choose policies that all have the guarantee of `control_risk`, from its own one to never stopping early.

    A service runs the first, and steps back to the next whenever live traffic gives evidence that the loss of the one
    in force is above the bound. The guarantee holds for all at once.

    Args:
        calibrated: As for `control_risk`, as are `val_loader`, `max_loss`, `confidence`, `loss`, `score` and `levels`.
        val_loader: Labeled batches, read once.
        max_loss: Bound ε on the mean loss, in (0, 1).
        confidence: Confidence 1 − α in (0, 1), or None for a bound in expectation.
        loss: "accuracy", "brier" or "agreement".
        score: Score that decides when to stop.
        levels: Candidate thresholds, falling.
        count: Greatest number of policies, at least 2. Between the first and the last they divide the expected cost
            into steps as equal as the certified levels allow.

    Returns:
        Policies of rising expected cost, no two of the same. The last one never stops early, so that its loss is 0.

    Raises:
        TypeError: As `control_risk`, and for a count that is no whole number.
        ValueError: As `control_risk`, and for a count below 2.
        RuntimeError: As `control_risk`.

    Example:
        >>> import torch
        >>> import suffice
        >>> network, x = suffice.models.convnet(num_classes=3, widths=(4, 8)), torch.rand(200, 1, 8, 8)
        >>> calibrated = suffice.calibrate(
        ...     network, None, [(x, torch.arange(200) % 3)], structure=None, temperature=False
        ... )
        >>> policies = suffice.certified_policies(calibrated, [x], max_loss=0.5, loss="agreement")
        >>> policies[0].promise.max_loss, float(policies[-1].shares[-1])
        (0.5, 1.0)
    """
    if arguments.whole("count", count) < 2:
        raise ValueError(f"expected a count of at least 2, got {count}; control_risk makes a single policy")
    certified = _certify(calibrated, val_loader, max_loss, confidence, loss, score, levels)
    policies = [certified.policy(level) for level in certified.levels]
    rising = {policy.expected: policy for policy in policies}  # of equal cost, the last and most permissive
    costs = sorted(rising)
    goals = torch.linspace(costs[0], costs[-1], count, dtype=torch.float64).tolist()
    chosen = {min(costs, key=lambda cost: abs(cost - goal)) for goal in goals}
    return [rising[cost] for cost in sorted(chosen)]


@dataclass(frozen=True)
class _Certified:
    """Levels whose loss is bounded, on validation data.

    Attributes:
        levels: Certified thresholds, falling; the first is +inf.
        examples: Validation examples at every exit.
        template: Policy with everything that does not depend on the level.
    """

    levels: list[float]
    examples: "StoppingLosses"
    template: Policy

    def policy(self, level: float) -> Policy:
        """Return the policy with the threshold of a level at every exit."""
        exits = len(self.template.shares)
        thresholds = torch.full((exits - 1,), level, dtype=torch.float64)
        exit_index = choose(self.examples.scores, thresholds)
        expected, shares = self.examples.prices.mean(exit_index), shares_of(exit_index, exits)
        return replace(self.template, thresholds=thresholds, expected=expected, shares=shares)


def _certify(
    calibrated: Calibrated,
    loader: Loader,
    max_loss: float,
    confidence: float | None,
    loss: RiskLoss,
    score: str | AnyScore,
    levels: Sequence[float] | None,
) -> _Certified:
    """Return the levels for which the bound is guaranteed, with a warning if there is none but +inf."""
    walk.check_calibrated(calibrated)
    _check(max_loss, confidence, loss)
    if not calibrated.likelihood.discrete:
        raise ValueError(f"expected classes, where a prediction is right or wrong, got a {calibrated.likelihood.name}")
    num_exits, sizes = len(calibrated.exits), calibrated.likelihood.labels(calibrated.num_classes)
    candidates = _candidate_levels(score, sizes, num_exits, levels)
    examples = _stopping_losses(calibrated, loader, scoring.resolve(score, calibrated.digest), loss)
    losses = losses_at_levels(examples.scores, examples.losses, candidates)
    num_certified = count_certified(losses, max_loss, confidence, loss, num_labels=sizes[0])
    if not num_certified:
        enough = examples_needed(max_loss, confidence, GREATEST[loss])
        warnings.warn(
            f"no level guarantees a loss of at most {max_loss:g} in {loss} from {len(examples.losses[0])} examples, so "
            f"no example stops early; at least {enough} examples are needed",
            stacklevel=4,
        )
    never, none = torch.full((num_exits - 1,), math.inf, dtype=torch.float64), torch.zeros(num_exits)
    promise = Promise(loss, max_loss, confidence)
    template = Policy(never, score, math.nan, math.nan, none, calibrated.digest, promise=promise)
    return _Certified([math.inf, *candidates[:num_certified].tolist()], examples, template)


@dataclass(frozen=True)
class StoppingLosses:
    """Validation examples at every exit.

    Attributes:
        scores: Scores (N,) at each of K exits, float64.
        losses: Losses (N,) of stopping at each exit, relative to the last exit, float64.
        prices: Cost of each example at each exit.
    """

    scores: list[Tensor]
    losses: list[Tensor]
    prices: Prices


@torch.no_grad()
def _stopping_losses(calibrated: Calibrated, loader: Loader, score: AnyScore, loss: RiskLoss) -> StoppingLosses:
    """Compute scores and losses of a whole loader at every exit."""
    scores: list[list[Tensor]] = [[] for _ in calibrated.exits]
    outcomes: list[list[Tensor]] = [[] for _ in calibrated.exits]
    costs, sizes = [], []
    for visit in walk.visit_exits(calibrated, _examples(calibrated, loader, loss), score):
        scores[visit.exit].append(visit.scores[0])
        outcomes[visit.exit].append(_outcome(visit, loss))
        if visit.exit == 0:
            costs.append(price(calibrated, visit.batch.inputs, score))
            sizes.append(visit.batch.size)
    joined = list(map(torch.cat, outcomes))
    if loss == "agreement":
        relative = [(labels != joined[-1]).view(len(labels), -1).any(dim=1).double() for labels in joined]
    else:
        relative = [(losses - joined[-1]).clamp_min(0) for losses in joined]
    return StoppingLosses(list(map(torch.cat, scores)), relative, Prices.of_batches(costs, sizes))


def _examples(calibrated: Calibrated, loader: Loader, loss: RiskLoss) -> Iterator[Batch]:
    """Yield batches with validated labels, or with labels as they are where the loss needs none."""
    if loss == "agreement":
        yield from batches.read(loader, calibrated.network)
        return
    for batch, labels in likelihoods.read(loader, calibrated.network, calibrated.likelihood):
        yield replace(batch, labels=labels)


def _outcome(visit: Visit, loss: RiskLoss) -> Tensor:
    """Return what the loss compares with the last exit: predicted labels (N,) or (N, K), or absolute losses (N,)."""
    if loss == "agreement":
        prediction: Any = visit.prediction
        labels: Tensor = prediction.label
        return labels
    assert visit.batch.labels is not None
    return visit.prediction.losses(visit.batch.labels, loss)


def _candidate_levels(
    score: str | AnyScore, sizes: tuple[int, int], num_exits: int, levels: Sequence[float] | None
) -> Tensor:
    """Return the given levels, or those of a built-in score, (L,) float64, and raise a ValueError unless they fall."""
    num_labels, num_classes = sizes
    values = scoring.levels(score, num_classes, num_exits, num_labels=num_labels) if levels is None else levels
    candidates = torch.as_tensor(values, dtype=torch.float64)
    if candidates.ndim != 1 or not len(candidates) or bool((candidates.diff() >= 0).any()):
        raise ValueError(
            "expected levels that fall from conservative to permissive, got others; sort them in descending order, "
            "without repetitions"
        )
    return candidates


def _check(max_loss: float, confidence: float | None, loss: str) -> None:
    """Raise a TypeError for a choice of another kind, and a ValueError for one outside its range."""
    if loss not in get_args(RiskLoss):
        raise ValueError(f"expected loss to be one of {get_args(RiskLoss)}, got {loss!r}")
    if not 0 < arguments.number("max_loss", max_loss) < 1:
        raise ValueError(f"expected a max_loss between 0 and 1, got {max_loss}")
    if confidence is not None and not 0 < arguments.number("confidence", confidence, "a number or None") < 1:
        raise ValueError(f"expected a confidence between 0 and 1, or None, got {confidence}")
