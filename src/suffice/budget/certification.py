"""Tests of candidate thresholds against a bound on the loss of stopping early, from losses alone.

One threshold λ serves all exits. Levels of λ are ordered from conservative to permissive before any data are used; the
first of all is never to stop early, which loses nothing. Let L_λ(x, y) in [0, B] be the loss of an example.

Learn-then-Test. The hypotheses E[L_λ] > ε are tested in that order at level α each, by p-values that are valid for any
number of examples. Testing ends at the first hypothesis that cannot be rejected, and all rejected levels are certified.
In a fixed sequence no correction for multiple tests is needed. Angelopoulos et al. 2021; Bates et al. 2021.

Conformal risk control. L is made monotone along the sequence, L̄_λ = max of L_λ' over more conservative λ'. Those λ with
(n mean(L̄_λ) + B)/(n + 1) ≤ ε are certified. Angelopoulos et al. 2022. Both for early exits: Jazbec et al. 2024.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from suffice.budget.thresholds.families import choose

RiskLoss = Literal["accuracy", "brier", "agreement"]
"""Losses that can be bounded."""

GREATEST = {"accuracy": 1.0, "brier": 2.0, "agreement": 1.0}
"""B, the greatest loss of an example."""


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
    n, greatest = losses.shape[1], GREATEST[loss]
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
