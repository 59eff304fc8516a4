"""Calibration of prediction sets on the answers of a policy."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from suffice.batches import Loader
from suffice.budget.coin import coin_of
from suffice.budget.policy import Policy
from suffice.budget.running.run import check_policy, run
from suffice.budget.sets import METHODS, Method, SetRule, check_coverage, check_method, examples_needed, quantile
from suffice.calibration import likelihoods
from suffice.calibration.calibrated import Calibrated
from suffice.utils.modes import default_modes


@default_modes()
def conformalize(
    calibrated: Calibrated,
    policy: Policy,
    loader: Loader,
    coverage: float = 0.9,
    method: Method | None = None,
    *,
    by_exit: bool = True,
    randomized: bool = False,
    penalty: float = 0.01,
    unpenalized: int = 5,
) -> Policy:
    """Calibrate prediction sets with a stated coverage for the answers of a policy.

    The policy that is returned stops the same examples at the same exits. Its answers have a `set`: the labels, or the
    interval of numbers, that contain the truth with the stated probability, whichever exit gave the answer
    (`suffice.budget.sets` has the equations). The probability is over the draw of the calibration examples and of the
    answered one. For one calibration set of n examples the coverage that results varies by about √(α(1 − α)/n).

    The guarantee assumes that the examples in `loader` and future ones are exchangeable, such as drawn independently
    from one distribution. So the examples must not have been used for anything else: neither for training, nor to
    tune in `calibrate`, nor to choose the thresholds of the policy. It does not hold when inputs change, nor for a
    single class or group.

    Args:
        calibrated: Calibrated network.
        policy: Policy made by `allocate` or `control_risk` for this network.
        loader: Labeled batches; read once.
        coverage: Coverage 1 − α, in (0, 1).
        method: "aps", "lac" or "raps" for classes, "interval" for a regression; None for the first that applies.
        by_exit: Whether the coverage holds among the answers of each exit, with one threshold for each, instead of only
            over all answers, with one threshold for all.
        randomized: Whether "aps" and "raps" treat the last label of a set at random, computed from the bytes of the
            example. Coverage is then at most 1/(n + 1) above the stated one, and a set may be empty.
        penalty: Penalty of "raps" for each further label.
        unpenalized: Number of most probable labels without a penalty in "raps".

    Raises:
        TypeError: If the arguments are not a calibrated network and a policy.
        ValueError: For a choice out of range or that does not apply, invalid labels, or a coverage that so few examples
            cannot guarantee: each exit where the policy stops examples, or all together if not `by_exit`, needs
            ⌈1/α⌉ − 1.

    Example:
        >>> import torch
        >>> import suffice
        >>> network, x = suffice.models.convnet(num_classes=3, widths=(4, 8)), torch.rand(400, 1, 8, 8)
        >>> y = torch.arange(400) % 3
        >>> calibrated = suffice.calibrate(network, None, [(x, y)], structure=None, temperature=False)
        >>> policy = suffice.allocate(calibrated, [x], budget=0.8)
        >>> policy = suffice.conformalize(calibrated, policy, [(x, y)], coverage=0.9, method="lac")
        >>> answer = suffice.run(calibrated, policy, x)
        >>> bool(answer.set.contains(y).double().mean() >= 0.9), len(answer.set.labels())
        (True, 400)
    """
    check_policy(calibrated, policy)
    likelihood = calibrated.likelihood.name
    chosen = method or METHODS.get(likelihood, ("aps",))[0]
    check_method(chosen, likelihood)
    check_coverage(coverage)
    _check_options(chosen, randomized, penalty, unpenalized)
    num_exits = len(calibrated.exits)
    blank = SetRule(
        torch.full((num_exits,), math.inf), chosen, float(coverage), by_exit, (0,) * num_exits, randomized, penalty,
        unpenalized,
    )  # fmt: skip
    scores, exits = _score_answers(calibrated, replace(policy, sets=None), loader, blank)
    counts = torch.bincount(exits, minlength=num_exits).tolist()
    if by_exit:
        reached = _can_stop(policy)
        _check_counts(counts, reached, coverage)
        thresholds = [quantile(scores[exits == k], coverage) if reached[k] else math.inf for k in range(num_exits)]
    else:
        thresholds = [quantile(scores, coverage)] * num_exits
    values = torch.tensor(thresholds, dtype=torch.float64)
    return replace(policy, sets=replace(blank, thresholds=values, counts=tuple(counts)))


def _check_options(method: Method, randomized: bool, penalty: float, unpenalized: int) -> None:
    """Raise a ValueError for an option that is out of range or has no effect with the method."""
    if randomized and method not in ("aps", "raps"):
        raise ValueError(f"expected method 'aps' or 'raps' with randomized=True, got {method!r}")
    if not 0 <= penalty < math.inf:
        raise ValueError(f"expected a finite penalty of at least 0, got {penalty}")
    if isinstance(unpenalized, bool) or not isinstance(unpenalized, int) or unpenalized < 0:
        raise ValueError(f"expected unpenalized to be an integer of at least 0, got {unpenalized!r}")


@torch.no_grad()
def _score_answers(calibrated: Calibrated, policy: Policy, loader: Loader, rule: SetRule) -> tuple[Tensor, Tensor]:
    """Return the nonconformity scores (n,) of the answers to a labeled loader, float64, and their exits (n,)."""
    scores, exits = [], []
    for batch, targets in likelihoods.read(loader, calibrated.network, calibrated.likelihood):
        answer = run(calibrated, policy, batch.inputs)
        coin = coin_of(calibrated.network, batch.inputs) if rule.randomized else None
        scores.append(rule.scores(answer.prediction, targets, coin).cpu())
        exits.append(answer.exit.cpu())
    return torch.cat(scores), torch.cat(exits)


def _can_stop(policy: Policy) -> list[bool]:
    """Return for each exit whether any example can stop there: not at +inf, nor behind −inf."""
    possible = torch.zeros(len(policy.thresholds) + 1, dtype=torch.bool)
    for thresholds in (policy.thresholds, policy.alternative):
        if thresholds is not None:
            padded = torch.nn.functional.pad(thresholds.cpu(), (1, 1), value=0.0)
            open_before = (padded[:-1] > -math.inf).long().cumprod(dim=0).bool()
            possible |= open_before & (padded[1:] < math.inf)
    flags: list[bool] = possible.tolist()
    return flags


def _check_counts(counts: Sequence[int], reached: Sequence[bool], coverage: float) -> None:
    """Raise a ValueError if an exit where examples can stop has too few of them."""
    needed, total = examples_needed(coverage), sum(counts)
    few = [k for k, count in enumerate(counts) if reached[k] and count < needed]
    if not few:
        return
    got = " and ".join(f"{counts[k]} at exit {k}" for k in few)
    least = min(counts[k] for k in few)
    more = f"pass about {math.ceil(1.5 * needed * total / least)} like them" if least else "pass many more"
    raise ValueError(
        f"expected at least {needed} calibration examples at each exit for a coverage of {coverage:g}, got {got} of "
        f"{total}; {more}, or by_exit=False for a coverage over all answers only"
    )
