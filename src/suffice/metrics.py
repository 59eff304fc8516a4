"""Measures of accuracy, calibration and ranking: pure functions of probabilities, labels and scores.

Probabilities are (N, C), labels (N,), scores (N,) with higher meaning more certain. For regression, means,
variances and targets are (N, C). Measures are float64 scalar tensors, and NaN where they are not defined (no positive,
no negative, no example) or a value is NaN. NumPy arrays and lists of numbers are taken in place of tensors. Labels may
have any integer type. Functions of labels raise a ValueError for other shapes, for labels that are not classes, and for
logits where probabilities are needed. Calibration errors come from `suffice.calibration_error`, measures of several
labels from `suffice.label_metrics`.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from suffice.calibration_error import bin_index as bin_index
from suffice.calibration_error import ece as ece
from suffice.calibration_error import ece_debiased as ece_debiased
from suffice.calibration_error import ece_noise_floor as ece_noise_floor
from suffice.calibration_error import reliability as reliability
from suffice.calibration_error import smooth_ece as smooth_ece
from suffice.label_metrics import average_precision as average_precision
from suffice.label_metrics import hamming_loss as hamming_loss
from suffice.label_metrics import label_accuracy as label_accuracy
from suffice.label_metrics import label_brier as label_brier
from suffice.label_metrics import label_ece as label_ece
from suffice.label_metrics import label_nll as label_nll
from suffice.label_metrics import mean_average_precision as mean_average_precision
from suffice.label_metrics import subset_accuracy as subset_accuracy
from suffice.utils import checks
from suffice.utils.arrays import takes_arrays


@takes_arrays
def accuracy(probs: Tensor, labels: Tensor) -> Tensor:
    """Compute the fraction of examples for which the most probable class is the label; `probs` may be logits.

    Example:
        >>> import torch
        >>> from suffice.metrics import accuracy
        >>> probs = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [0.2, 0.8]])
        >>> float(accuracy(probs, torch.tensor([0, 1, 1, 1])))
        0.75
    """
    return _mean(correct(probs, labels), probs)


@takes_arrays
def correct(probs: Tensor, labels: Tensor) -> Tensor:
    """Return whether the most probable class of each example is its label, (N,) bool; `probs` may be logits."""
    labels = checks.labeled(probs, labels)
    return probs.argmax(dim=-1) == labels


@takes_arrays
def top_k_accuracy(probs: Tensor, labels: Tensor, k: int = 5) -> Tensor:
    """Compute the fraction of examples with the label among the k most probable classes; 1 where k ≥ C.

    `probs` may be logits.
    """
    labels = checks.labeled(probs, labels)
    best = probs.topk(min(k, probs.shape[-1]), dim=-1).indices
    return _mean((best == labels[:, None]).any(dim=-1), probs)


@takes_arrays
def nll(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean negative log-probability of the label, in nats, from log-probabilities."""
    labels = checks.labeled(log_probs, labels)
    checks.class_values(log_probs, -math.inf, 0.0, "log-probabilities; take logits.log_softmax(-1), or probs.log()")
    return -log_probs.double().gather(-1, labels[:, None]).mean() + _undefined(log_probs)


@takes_arrays
def brier(probs: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean of Σ_c (p_c − [c = label])², in [0, 2] (Brier 1950)."""
    labels = checks.labeled(probs, labels)
    checks.class_values(probs, 0.0, 1.0)
    target = torch.nn.functional.one_hot(labels, probs.shape[-1])
    return (probs.double() - target).square().sum(dim=-1).mean()


def _mean(hits: Tensor, values: Tensor) -> Tensor:
    """Return the mean of hits (N,), or NaN if one of the values that they come from is NaN."""
    return hits.double().mean() + _undefined(values)


def _undefined(*values: Tensor) -> float:
    """Return NaN if any value is NaN, which a comparison would count as false, else 0."""
    return math.nan if any(bool(value.isnan().any()) for value in values) else 0.0


@takes_arrays
def auroc(scores: Tensor, positive: Tensor) -> Tensor:
    """Compute the probability that a positive outranks a negative, ties counted half (Mann and Whitney).

    Args:
        scores: Scores (N,), higher meaning more positive.
        positive: Whether each example is positive, (N,) bool.

    Example:
        >>> import torch
        >>> from suffice.metrics import auroc
        >>> float(auroc(torch.tensor([3.0, 1.0, 2.0]), torch.tensor([True, True, False])))
        0.5
    """
    positive = checks.flags(positive, "positives", scores)
    values, inverse = scores.double().unique(sorted=True, return_inverse=True)
    counts = torch.bincount(inverse, minlength=len(values)).double()
    mid_rank = counts.cumsum(0) - (counts - 1) / 2
    p = positive.sum().double()
    n = len(positive) - p
    wins: Tensor = mid_rank[inverse][positive].sum() - p * (p + 1) / 2
    return wins / (p * n) + _undefined(scores)


@takes_arrays
def quantile(values: Tensor, probabilities: Sequence[float]) -> Tensor:
    """Compute quantiles by linear interpolation between the sorted values, for any number of values.

    `torch.quantile` refuses more than 2²⁴ of them.

    Args:
        values: Values (N,), at least one; a NaN makes every quantile NaN.
        probabilities: Probabilities of the quantiles, in [0, 1].

    Returns:
        Quantiles, one for each probability, float64.

    Example:
        >>> import torch
        >>> from suffice.metrics import quantile
        >>> quantile(torch.tensor([3.0, 1.0, 2.0]), [0.0, 0.75]).tolist()
        [1.0, 2.5]
    """
    ranked = values.double().sort().values
    place = torch.tensor(probabilities, dtype=torch.float64, device=values.device) * (len(ranked) - 1)
    below = place.floor()
    found = ranked[below.long()].lerp(ranked[place.ceil().long()], place - below)
    return found.masked_fill(ranked[-1].isnan(), torch.nan)


@takes_arrays
def fpr95(scores: Tensor, positive: Tensor) -> Tensor:
    """Compute the false positive rate at the highest threshold that at least 95 % of the positives reach.

    A negative that ties with the threshold counts as a false positive. With in-distribution examples as positives it is
    the fraction of out-of-distribution examples that are accepted (Liang et al. 2018).

    Args:
        scores: Scores (N,), higher meaning more positive.
        positive: Whether each example is positive, (N,) bool.
    """
    positive = checks.flags(positive, "positives", scores)
    inside, outside = scores[positive].double(), scores[~positive].double()
    if not len(inside) or not len(outside):
        return torch.tensor(float("nan"), dtype=torch.float64)
    needed = -(-19 * len(inside) // 20)  # in integers: 0.95 n rounds
    threshold = inside.sort(descending=True).values[needed - 1]
    return _mean(outside >= threshold, scores)


@takes_arrays
def aurc(scores: Tensor, hits: Tensor) -> Tensor:
    """Compute the area under the risk-coverage curve (Geifman 2019).

    It is the mean over n of the error rate among the n examples with the highest scores. Examples of equal score
    enter together, each with the mean error of its group.

    Args:
        scores: Scores (N,), higher meaning more certain.
        hits: Whether each prediction is correct, (N,) bool, or the share of it that is, in [0, 1].

    Example:
        >>> import torch
        >>> from suffice.metrics import aurc
        >>> float(aurc(torch.tensor([0.9, 0.8]), torch.tensor([True, False])))
        0.25
    """
    hits = checks.shares(hits, "hits", scores)
    if not len(scores):
        return torch.tensor(float("nan"), dtype=torch.float64)
    _, inverse, counts = scores.double().unique(sorted=True, return_inverse=True, return_counts=True)
    error = 1 - hits.double()
    group_rate = torch.zeros(len(counts), dtype=torch.float64, device=scores.device)
    group_rate = group_rate.index_add_(0, inverse, error) / counts
    by_score = group_rate[inverse.sort(descending=True).values]
    covered = torch.arange(1, len(scores) + 1, device=scores.device)
    risks: Tensor = by_score.cumsum(0) / covered
    return risks.mean() + _undefined(scores)


@takes_arrays
def eefp(scores: list[Tensor], hits: list[Tensor]) -> Tensor:
    """Compute early-exit failure prediction: how well scores rank where stopping is safe (arXiv 2508.21495).

    At each exit but the last an example is positive if the prediction there is correct, or if no later exit is correct
    either. The result is the mean over those exits of the AUROC of the score, leaving out exits where all examples are
    positive or all are negative.

    Args:
        scores: Scores (N,) of each exit, higher meaning more certain.
        hits: Whether each prediction of each exit is correct, (N,) bool each.
    """
    hits = [checks.flags(values, f"hits of exit {k}", scores[k]) for k, values in enumerate(hits)]
    values = []
    for k in range(len(scores) - 1):
        later = torch.stack(hits[k + 1 :]).any(dim=0)
        values.append(auroc(scores[k], hits[k] | ~later))
    return torch.stack(values).nanmean() + _undefined(*scores[:-1]) if values else torch.tensor(math.nan).double()


@takes_arrays
def largest_fall(label_probs: list[Tensor]) -> Tensor:
    """Compute how far the probability of the label falls, at the worst exit, below its greatest value before.

    It is 0 for an example that only improves from exit to exit: conditional monotonicity (Jazbec et al. 2023).

    Args:
        label_probs: Probability (N,) of the label at each exit, first to last.

    Returns:
        Falls (N,) in [0, 1], float64.
    """
    table = torch.stack(label_probs).double()
    falls: Tensor = (table.cummax(dim=0).values - table).amax(dim=0)
    return falls


@takes_arrays
def rmse(mean: Tensor, targets: Tensor) -> Tensor:
    """Compute the root mean squared error over examples and outputs, in the units of the targets."""
    targets = _targets(targets, mean)
    return (mean.double() - targets).square().mean().sqrt()


@takes_arrays
def gaussian_nll(mean: Tensor, variance: Tensor, targets: Tensor) -> Tensor:
    """Compute the mean over examples of −log N(target; mean, variance), in nats, summed over the outputs."""
    targets, variance = _targets(targets, mean, variance), variance.double()
    terms = (targets - mean.double()).square() / variance + variance.log() + math.log(2 * math.pi)
    return terms.sum(dim=-1).mean() / 2


@takes_arrays
def gaussian_crps(mean: Tensor, variance: Tensor, targets: Tensor) -> Tensor:
    """Compute the mean continuous ranked probability score over examples and outputs, in the units of the targets.

    ∫ (F(t) − [t ≥ y])² dt = σ (z (2Φ(z) − 1) + 2φ(z) − 1/√π) with z = (y − μ)/σ, and |y − μ| where σ = 0
    (Gneiting and Raftery 2007).
    """
    targets, std = _targets(targets, mean, variance), variance.double().sqrt()
    error = targets - mean.double()
    z = error / std
    density = (-z.square() / 2).exp() / math.sqrt(2 * math.pi)
    score = std * (z * (2 * torch.special.ndtr(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))
    return torch.where(std > 0, score, error.abs()).mean()


@takes_arrays
def interval_coverage(mean: Tensor, variance: Tensor, targets: Tensor, level: float = 0.95) -> Tensor:
    """Compute the fraction of targets inside the central interval of probability `level`, over examples and outputs.

    Raises:
        ValueError: Unless 0 < level < 1.
    """
    targets, std = _targets(targets, mean, variance), variance.double().sqrt()
    error = (targets - mean.double()).abs()
    return (error <= half_width(level) * std).double().mean() + _undefined(error, std)


def _targets(targets: Tensor, mean: Tensor, variance: Tensor | None = None) -> Tensor:
    """Return targets in float64, and raise a ValueError for shapes that would be broadcast."""
    shapes = [tuple(values.shape) for values in (mean, targets, *([] if variance is None else [variance]))]
    if len(set(shapes)) > 1:
        raise ValueError(
            f"expected means, targets{'' if variance is None else ' and variances'} of one shape, (N, C), got "
            f"{', '.join(map(str, shapes))}"
        )
    return targets.double()


def half_width(level: float) -> float:
    """Compute the half-width, in standard deviations, of a Gaussian's central interval of probability `level`.

    Raises:
        ValueError: Unless 0 < level < 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"expected a level between 0 and 1, got {level}; 0.95 is 95 %")
    return float(torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64)))
