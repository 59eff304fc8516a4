"""Unit of logits: the temperature about which the search for T is centered.

Logits are log-odds where a network was trained on their cross-entropy, and T is about 1. Margins of a hinge loss, or
cosines with or without a scale, are logits in another unit: T is about that unit, and could be anything. The unit is 1
for logits of a usual size r, and brings others to the nearest usual size, r/unit. So logits that are multiplied by a
large factor are calibrated to the same probabilities.
"""

from torch import Tensor

SIZES = (0.3, 30.0)
"""Usual sizes of logits: median over examples of the largest distance from their mean over the classes."""


def of_classes(logits: Tensor) -> float:
    """Return the unit of logits (N, C) of classes that exclude each other."""
    return _unit((logits - logits.mean(dim=1, keepdim=True)).abs().amax(dim=1))


def of_questions(logits: Tensor) -> float:
    """Return the unit of logits (N, C) of yes, each against a logit of 0."""
    return _unit(logits.abs().amax(dim=1))


def _unit(sizes: Tensor) -> float:
    """Return the unit of logits from the size (N,) of each example's."""
    size = float(sizes.double().median())
    return size / min(max(size, SIZES[0]), SIZES[1]) or 1.0
