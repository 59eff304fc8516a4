"""Guarantees on the loss of stopping early, relative to the last exit.

One threshold λ serves all exits. Levels of λ are ordered from conservative to permissive before any data are used; the
first of all is never to stop early, which loses nothing. Let L_λ(x, y) in [0, B] be the loss of an example.

Learn-then-Test. The hypotheses E[L_λ] > ε are tested in that order at level α each, by p-values that are valid for any
number of examples. Testing ends at the first hypothesis that cannot be rejected, and the last rejected level is used.
In a fixed sequence no correction for multiple tests is needed. Angelopoulos et al. 2021; Bates et al. 2021.

Conformal risk control. L is made monotone along the sequence, L̄_λ = max of L_λ' over more conservative λ'. The most
permissive λ with (n mean(L̄_λ) + B)/(n + 1) ≤ ε is used. Angelopoulos et al. 2022. Both for early exits: Jazbec et al.
2024.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from suffice import batches
from suffice.batches import Batch, Loader
from suffice.budget import scores as scoring
from suffice.budget import walk
from suffice.budget.policy import Policy, Promise
from suffice.budget.prices import Prices, price
from suffice.budget.scores import AnyScore
from suffice.budget.thresholds.families import choose, shares_of
from suffice.budget.walk import Visit
from suffice.calibration import likelihoods
from suffice.calibration.calibrated import Calibrated
from suffice.utils import arguments
from suffice.utils.modes import default_modes

RiskLoss = Literal["accuracy", "brier", "agreement"]
"""Losses that can be bounded."""

_GREATEST = {"accuracy": 1.0, "brier": 2.0, "agreement": 1.0}
"""B, the greatest loss of an example."""


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
    walk.check_calibrated(calibrated)
    _check(max_loss, confidence, loss)
    if not calibrated.likelihood.discrete:
        raise ValueError(f"expected classes, where a prediction is right or wrong, got a {calibrated.likelihood.name}")
    num_exits, sizes = len(calibrated.exits), calibrated.likelihood.labels(calibrated.num_classes)
    candidates = _candidate_levels(score, sizes, num_exits, levels)
    examples = _stopping_losses(calibrated, val_loader, scoring.resolve(score, calibrated.digest), loss)
    losses = losses_at_levels(examples.scores, examples.losses, candidates)
    num_certified = count_certified(losses, max_loss, confidence, loss, num_labels=sizes[0])
    if not num_certified:
        enough = examples_needed(max_loss, confidence, _GREATEST[loss])
        warnings.warn(
            f"no level guarantees a loss of at most {max_loss:g} in {loss} from {len(examples.losses[0])} examples, so "
            f"no example stops early; at least {enough} examples are needed",
            stacklevel=3,
        )
    level = float(candidates[num_certified - 1]) if num_certified else math.inf
    thresholds = torch.full((num_exits - 1,), level, dtype=torch.float64)
    exit_index = choose(examples.scores, thresholds)
    expected, shares = examples.prices.mean(exit_index), shares_of(exit_index, num_exits)
    promise = Promise(loss, max_loss, confidence)
    return Policy(thresholds, score, math.nan, expected, shares, calibrated.digest, promise=promise)


def losses_at_levels(scores: Sequence[Tensor], losses: Sequence[Tensor], levels: Tensor) -> Tensor:
    """Compute the loss of each example if all exits had the threshold of each level.

    Args:
        scores: Scores (N,) at each exit.
        losses: Losses (N,) of stopping at each exit.
        levels: Thresholds (L,).

    Returns:
        Losses (L, N).
    """
    rows, table = torch.arange(len(losses[0]), device=losses[0].device), torch.stack(list(losses))
    return torch.stack([table[choose(scores, level.expand(len(losses) - 1)), rows] for level in levels])


def count_certified(
    losses: Tensor, max_loss: float, confidence: float | None, loss: RiskLoss, num_labels: int = 1
) -> int:
    """Count the levels, from the most conservative on, for which the bound is guaranteed.

    Args:
        losses: Losses (L, N), levels from conservative to permissive.
        max_loss: Bound ε on the mean loss.
        confidence: Confidence 1 − α for Learn-then-Test, or None for conformal risk control.
        loss: Kind of the losses: up to 1 for "accuracy" and "agreement", up to 2 for "brier".
        num_labels: Number of labels of an example; with one label, losses but those in "brier" are 0 or 1.
    """
    n, greatest = losses.shape[1], _GREATEST[loss]
    if confidence is None:
        worst = losses.cummax(dim=0).values.mean(dim=1)
        passes = (n * worst + greatest) / (n + 1) <= max_loss
    else:
        binary = loss == "agreement" or (loss == "accuracy" and num_labels == 1)
        values = p_values(losses.mean(dim=1) / greatest, n, max_loss / greatest, binary)
        passes = values <= 1 - confidence
    return int(passes.long().cumprod(dim=0).sum())


def p_values(means: Tensor, n: int, max_mean: float, binary: bool) -> Tensor:
    """Compute super-uniform p-values (L,) of the hypothesis that the expected loss is above `max_mean`, for any n.

    For losses of 0 or 1 they are the binomial tail P(Bin(n, ε) ≤ n mean), which is exact; else the bound of Hoeffding
    and Bentkus, min(exp(−n kl(min(mean, ε), ε)), e P(Bin(n, ε) ≤ ⌈n mean⌉)), with kl of two Bernoulli distributions.

    Args:
        means: Mean losses (L,) of n examples, in [0, 1].
        n: Number of examples.
        max_mean: Bound ε in (0, 1).
        binary: Whether every loss is 0 or 1.
    """
    from scipy.special import rel_entr
    from scipy.stats import binom

    observed = means.double().cpu().numpy()
    if binary:
        return torch.from_numpy(binom.cdf((observed * n).round(), n, max_mean))
    low = observed.clip(max=max_mean)
    divergence = rel_entr(low, max_mean) + rel_entr(1 - low, 1 - max_mean)
    hoeffding = torch.from_numpy(-n * divergence).exp()
    bentkus = math.e * torch.from_numpy(binom.cdf(np.ceil(observed * n), n, max_mean))
    return torch.minimum(hoeffding, bentkus).clamp_max(1)


def examples_needed(max_loss: float, confidence: float | None, greatest: float = 1.0) -> int:
    """Return the least number of examples for which a loss of 0 on all of them is enough for the guarantee."""
    if confidence is None:
        return math.ceil(greatest / max_loss) - 1
    return math.ceil(math.log(1 - confidence) / math.log1p(-max_loss / greatest))


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
