"""Promises on the loss of stopping early, against what the last exit would have answered.

One threshold λ serves all exits; levels of λ are ordered from the safest to the boldest before any data are seen,
the first of all being never to stop early, which loses nothing. With L_λ(x, y) in [0, B] the loss of an example:

Learn-then-Test. The hypotheses E[L_λ] > ε are tested in that order at level α each, by p-values that hold for any
number of examples; the first that cannot be rejected ends it, and the last rejected one is taken. In a fixed
sequence no correction for many tests is needed. Angelopoulos et al. 2021; Bates et al. 2021.

Conformal risk control. L is made monotone along the sequence, L̄_λ = max over safer λ' of L_λ'; the boldest λ with
(n mean(L̄_λ) + B)/(n + 1) ≤ ε is taken. Angelopoulos et al. 2022. Both for early exits: Jazbec et al. 2024.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from suffice import metrics
from suffice.batches import Loader
from suffice.budget import scores as scoring
from suffice.budget import walk
from suffice.budget.policy import Policy, Promise
from suffice.budget.scores import AnyScore
from suffice.budget.thresholds import choose, shares_of
from suffice.calibration import likelihoods
from suffice.calibration.calibrated import Calibrated
from suffice.prediction import Prediction
from suffice.utils.modes import default_modes

Loss = Literal["accuracy", "brier"]
_GREATEST = {"accuracy": 1.0, "brier": 2.0}
"""B, the greatest loss that an example can have."""


@default_modes()
def control_risk(
    calibrated: Calibrated,
    val_loader: Loader,
    max_loss: float = 0.01,
    confidence: float | None = 0.95,
    loss: Loss = "accuracy",
    score: str | AnyScore = "confidence",
    *,
    levels: Sequence[float] | None = None,
) -> Policy:
    """The boldest policy whose loss against the last exit is promised to be at most `max_loss`.

    The loss of an example is what stopping early makes worse, and never negative: "accuracy", 1 if the last exit
    is right and the exit where it stops is wrong, else 0; "brier", max(0, Σ_c (p_c − [c = y])² at the exit where
    it stops less that at the last). So accuracy falls, or the mean Brier score rises, by no more than it.

    What is promised, for validation examples and examples to come drawn independently from one distribution that
    neither the network, its calibration nor the levels have been fitted to:

    - with a confidence 1 − α: with at least this probability, over the draw of the validation set, the mean loss
      over examples to come (its expectation, not that of a finite batch) is at most `max_loss`.
    - with `confidence=None`: the mean loss over examples to come is at most `max_loss` on average over draws of
      the validation set; for the set at hand it may be more.

    Nothing is promised when inputs change, nor for a single class or group. Validation data that temperatures or
    priors were tuned on are not untouched: keep some apart for this.

    Args:
        calibrated: the network that will run.
        val_loader: labelled batches; read once.
        max_loss: ε.
        confidence: 1 − α, or None.
        loss: "accuracy" or "brier".
        score: as for `allocate`.
        levels: thresholds to try, from safest to boldest; chosen without val_loader. Needed unless score is a name.

    Raises:
        TypeError: for a network that is not calibrated.
        ValueError: for a bound or a confidence outside (0, 1), levels that do not fall, or a regression.

    Warns:
        UserWarning: if no level can be promised, so that the policy never stops early; with how many examples the
            safest loss of 0 could have been.
    """
    walk.check_calibrated(calibrated)
    _check(max_loss, confidence, loss)
    if calibrated.likelihood.name not in ("classification", "binary"):
        raise ValueError(f"expected classes, whose answers are right or wrong, got a {calibrated.likelihood.name}")
    classes = max(2, calibrated.num_classes)
    named = scoring.levels(score, classes, len(calibrated.exits)) if levels is None else levels
    tried = torch.as_tensor(named, dtype=torch.float64)
    if tried.ndim != 1 or not len(tried) or bool((tried.diff() >= 0).any()):
        raise ValueError("expected levels that fall from the safest to the boldest, got others")
    seen = _validation(calibrated, val_loader, scoring.resolve(score, calibrated.digest), loss)
    losses = along(seen.scores, seen.losses, tried)
    passed = certified(losses, max_loss, confidence, loss)
    if not passed:
        warnings.warn(
            f"no level can be promised a loss of {max_loss:g} in {loss} from {len(seen.losses[0])} examples, so no "
            f"example stops early; at least {needed(max_loss, confidence, _GREATEST[loss])} examples are needed",
            stacklevel=3,
        )
    level = float(tried[passed - 1]) if passed else math.inf
    thresholds = torch.full((len(calibrated.exits) - 1,), level, dtype=torch.float64)
    shares = shares_of(choose(seen.scores, thresholds), len(calibrated.exits))
    costs = torch.tensor(scoring.priced(calibrated.costs.cumulative, score), dtype=torch.float64)
    expected = float(shares @ costs)
    promise = Promise(loss, max_loss, confidence)
    return Policy(thresholds, score, math.nan, expected, shares, calibrated.digest, promise=promise)


def along(scores: Sequence[Tensor], losses: Sequence[Tensor], levels: Tensor) -> Tensor:
    """Loss (L, N) of each example if all exits had the threshold of each level.

    Args:
        scores: (N,) of each exit.
        losses: (N,) of stopping at each exit.
        levels: (L,).
    """
    rows, table = torch.arange(len(losses[0]), device=losses[0].device), torch.stack(list(losses))
    exits = len(losses)
    return torch.stack([table[choose(scores, level.expand(exits - 1)), rows] for level in levels])


def certified(losses: Tensor, max_loss: float, confidence: float | None, loss: Loss) -> int:
    """How many levels, from the safest, may be promised.

    Args:
        losses: (L, N), levels from the safest to the boldest.
        max_loss: ε.
        confidence: 1 − α for Learn-then-Test, None for conformal risk control.
        loss: what they are: 0 or 1 for "accuracy", up to 2 for "brier".
    """
    n, greatest = losses.shape[1], _GREATEST[loss]
    if confidence is None:
        worst = losses.cummax(dim=0).values.mean(dim=1)
        passes = (n * worst + greatest) / (n + 1) <= max_loss
    else:
        values = p_values(losses.mean(dim=1) / greatest, n, max_loss / greatest, binary=loss == "accuracy")
        passes = values <= 1 - confidence
    return int(passes.long().cumprod(dim=0).sum())


def p_values(means: Tensor, n: int, max_mean: float, binary: bool) -> Tensor:
    """Super-uniform p-values (L,) of the hypothesis that the expected loss is over `max_mean`, for any n.

    For losses of 0 or 1 the binomial tail P(Bin(n, ε) ≤ n mean), which is exact; else that of Hoeffding and Bentkus,
    min(exp(−n kl(min(mean, ε), ε)), e P(Bin(n, ε) ≤ ⌈n mean⌉)), with kl of two Bernoulli distributions.

    Args:
        means: (L,), mean losses of n examples, in [0, 1].
        n: number of examples.
        max_mean: ε in (0, 1).
        binary: whether every loss is 0 or 1.
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


def needed(max_loss: float, confidence: float | None, greatest: float = 1.0) -> int:
    """Examples from which a loss of 0 on all of them can be promised."""
    if confidence is None:
        return math.ceil(greatest / max_loss) - 1
    return math.ceil(math.log(1 - confidence) / math.log1p(-max_loss / greatest))


@dataclass(frozen=True)
class _Seen:
    """Scores and losses of stopping at every exit, K × (N,)."""

    scores: list[Tensor]
    losses: list[Tensor]


@torch.no_grad()
def _validation(calibrated: Calibrated, loader: Loader, score: AnyScore, loss: str) -> _Seen:
    exits = range(len(calibrated.exits))
    scores: list[list[Tensor]] = [[] for _ in exits]
    losses: list[list[Tensor]] = [[] for _ in exits]
    for batch, labels in likelihoods.read(loader, calibrated.network, calibrated.likelihood):
        in_flight, own = walk.begin(calibrated, batch.inputs, start=batch.start), []
        for k in exits:
            in_flight, prediction = walk.step(calibrated, k, in_flight, score)
            in_flight = walk.scored(in_flight, prediction, score, k)
            scores[k].append(in_flight.scores[:, k])
            assert isinstance(prediction, Prediction)
            own.append(_badness(prediction.probs, labels, loss))
        for k in exits:
            losses[k].append((own[k] - own[-1]).clamp_min(0))
    return _Seen([torch.cat(parts) for parts in scores], [torch.cat(parts) for parts in losses])


def _badness(probs: Tensor, labels: Tensor, loss: str) -> Tensor:
    """Error (0 or 1) or Brier score of each example, (N,) float64."""
    if loss == "accuracy":
        return 1 - metrics.correct(probs, labels).double()
    return (probs.double() - one_hot(labels, probs.shape[-1])).square().sum(dim=-1)


def _check(max_loss: float, confidence: float | None, loss: str) -> None:
    if loss not in get_args(Loss):
        raise ValueError(f"expected loss to be one of {get_args(Loss)}, got {loss!r}")
    if not 0 < max_loss < 1:
        raise ValueError(f"expected a max_loss between 0 and 1, got {max_loss}")
    if confidence is not None and not 0 < confidence < 1:
        raise ValueError(f"expected a confidence between 0 and 1, or None, got {confidence}")
