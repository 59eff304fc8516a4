"""Measures of several labels, each present or absent, as pure functions of their probabilities.

Probabilities and labels are (N, K). Functions `label_…` return one value for each label, (K,); the others return
float64 scalar tensors.
"""

import math

import torch
from torch import Tensor

from suffice.calibration_error import ece
from suffice.utils import checks
from suffice.utils.arrays import takes_arrays


@takes_arrays
def hamming_loss(probs: Tensor, labels: Tensor) -> Tensor:
    """Compute the fraction of wrong labels over all examples and labels; a label is present above a probability of 1/2.

    Args:
        probs: Probabilities of presence, (N, K).
        labels: Labels of 0 and 1, (N, K).

    Example:
        >>> import torch
        >>> from suffice.metrics import hamming_loss, subset_accuracy
        >>> probs, labels = torch.tensor([[0.9, 0.2], [0.7, 0.6]]), torch.tensor([[1, 0], [1, 0]])
        >>> float(hamming_loss(probs, labels)), float(subset_accuracy(probs, labels))
        (0.25, 0.5)
    """
    return 1 - label_accuracy(probs, labels).mean()


@takes_arrays
def subset_accuracy(probs: Tensor, labels: Tensor) -> Tensor:
    """Compute the fraction of examples with all labels right; arguments as for `hamming_loss`."""
    return _label_hits(probs, labels).all(dim=-1).double().mean()


@takes_arrays
def label_accuracy(probs: Tensor, labels: Tensor) -> Tensor:
    """Compute the accuracy (K,) of each label; arguments as for `hamming_loss`."""
    return _label_hits(probs, labels).double().mean(dim=0)


@takes_arrays
def label_nll(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean negative log-probability (K,) of each label, in nats; their sum is that of all labels together.

    Args:
        log_probs: Log-probabilities of absence and of presence, (N, K, 2).
        labels: Labels of 0 and 1, (N, K).
    """
    if log_probs.ndim != 3 or log_probs.shape[-1] != 2 or labels.shape != log_probs.shape[:2]:
        raise ValueError(
            f"expected log-probabilities (N, K, 2) and labels (N, K), got {tuple(log_probs.shape)} and "
            f"{tuple(labels.shape)}"
        )
    checks.class_values(log_probs.flatten(0, 1), -math.inf, 0.0, "log-probabilities, such as logits.log_softmax(-1)")
    picked = log_probs.double().gather(-1, _binary(labels)[..., None])
    return -picked[..., 0].mean(dim=0)


@takes_arrays
def label_brier(probs: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean Brier score (K,) of each label, 2 (p − y)² in [0, 2], as of the classes absent and present.

    Arguments as for `hamming_loss`.
    """
    _check_labels(probs, labels)
    return 2 * (probs.double() - labels.double()).square().mean(dim=0)


@takes_arrays
def label_ece(probs: Tensor, labels: Tensor, bins: int = 15, equal_mass: bool = False) -> Tensor:
    """Compute the `ece` (K,) of each label, as a classification into absent and present.

    Arguments as for `hamming_loss` and `ece`.
    """
    _check_labels(probs, labels)
    pairs = torch.stack([1 - probs.double(), probs.double()], dim=2)
    columns = zip(pairs.unbind(dim=1), _binary(labels).unbind(dim=1), strict=True)
    return torch.stack([ece(*column, bins=bins, equal_mass=equal_mass) for column in columns])


@takes_arrays
def average_precision(scores: Tensor, positive: Tensor) -> Tensor:
    """Compute the average precision Σ_i (R_i − R_{i−1}) P_i over the thresholds i, each with all tied scores above it.

    P is the fraction of positives among the scores at or above the threshold, R the fraction of the positives there.

    Args:
        scores: Scores (N,), higher meaning more positive.
        positive: Whether each example is positive, (N,) bool.

    Example:
        >>> import torch
        >>> from suffice.metrics import average_precision
        >>> float(average_precision(torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([True, False, False, True])))
        0.75
    """
    positive = positive.bool()
    _, inverse, counts = (-scores.double()).unique(sorted=True, return_inverse=True, return_counts=True)
    hits = torch.zeros(len(counts), dtype=torch.float64, device=scores.device).index_add_(0, inverse, positive.double())
    precision: Tensor = hits.cumsum(0) / counts.cumsum(0)
    return (hits * precision).sum() / positive.sum()


@takes_arrays
def mean_average_precision(scores: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean of the `average_precision` of the labels; labels without a positive example are left out.

    Args:
        scores: Scores (N, K), such as probabilities or logits, higher meaning present.
        labels: Labels of 0 and 1, (N, K).
    """
    _check_labels(scores, labels, within_one=False)
    columns = zip(scores.unbind(dim=1), labels.unbind(dim=1), strict=True)
    return torch.stack([average_precision(*column) for column in columns]).nanmean()


def _label_hits(probs: Tensor, labels: Tensor) -> Tensor:
    """Return whether each label is right, (N, K) bool."""
    _check_labels(probs, labels)
    return (probs > 0.5) == (labels == 1)


def _check_labels(values: Tensor, labels: Tensor, within_one: bool = True) -> None:
    """Raise a ValueError unless values are (N, K), probabilities if `within_one`, and labels (N, K) are 0 or 1."""
    if values.ndim != 2 or labels.shape != values.shape:
        raise ValueError(
            f"expected (N, K), one number per label, and labels (N, K), got {tuple(values.shape)} and "
            f"{tuple(labels.shape)}"
        )
    _binary(labels)
    if not within_one or not values.numel():
        return
    checks.class_values(values, 0.0, 1.0, "probabilities of presence; take logits.sigmoid()")


def _binary(labels: Tensor) -> Tensor:
    """Return labels of 0 and 1, of any type, as int64."""
    outside = labels[(labels != 0) & (labels != 1)]
    if len(outside):
        raise ValueError(f"expected labels 0 or 1, got {outside[0].item():g}")
    return labels.long()
