"""Checks of probabilities, labels and flags, the same wherever they are counted."""

import math

import torch
from torch import Tensor

_ROUNDING = 1e-2
"""Tolerance by which a probability, or its logarithm, may lie outside its range; bfloat16 has three digits."""


def class_values(
    values: Tensor,
    least: float = -math.inf,
    greatest: float = math.inf,
    what: str = "probabilities; take logits.softmax(-1), or log_probs.exp()",
) -> None:
    """Check that values are (N, C) in [least, greatest], up to rounding, or NaN.

    Raises:
        ValueError: Unless they are.
    """
    if values.ndim != 2:
        raise ValueError(f"expected (N, C), one number per class, got {tuple(values.shape)}")
    if (least == -math.inf and greatest == math.inf) or not values.numel():
        return
    low, high = (float(end) for end in values.detach().aminmax())
    if low < least - _ROUNDING or high > greatest + _ROUNDING:
        raise ValueError(f"expected values in [{least:g}, {greatest:g}], got {low:.4g} to {high:.4g}; pass {what}")


def labeled(values: Tensor, labels: Tensor) -> Tensor:
    """Check that values are (N, C) and labels (N,), and convert the labels as `class_labels` does.

    Raises:
        ValueError: For other shapes, or labels that are not integers in [0, C).
    """
    if values.ndim != 2 or labels.shape != values.shape[:1]:
        several = "; for several labels of 0 and 1 take metrics.hamming_loss or a function label_…, such as label_nll"
        raise ValueError(
            f"expected (N, C), one number per class, and labels (N,), got {tuple(values.shape)} and "
            f"{tuple(labels.shape)}{several if labels.shape == values.shape else ''}"
        )
    return class_labels(labels, values.shape[1])


def class_labels(labels: Tensor, num_classes: int, start: int = 0) -> Tensor:
    """Convert class labels (N,) of any integer type to int64.

    Comparisons in a small type wrap or are not implemented, and a label out of range may select another class, so the
    labels are widened before they are compared.

    Args:
        labels: Labels (N,).
        num_classes: Number of classes C.
        start: Position of the first label in the whole pass.

    Raises:
        ValueError: Unless they are integers in [0, num_classes), or bool of two classes; the message names the first
            other one.
    """
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(
            f"expected integer labels, got {labels.dtype} from position {start}; leave out examples without a "
            "label, and pass labels.long() if the others are whole numbers"
        )
    if labels.dtype == torch.bool and num_classes > 2:
        raise ValueError(
            f"expected integer labels of {num_classes} classes, got torch.bool from position {start}, which has two "
            "values; pass labels.long() if only classes 0 and 1 occur"
        )
    widened = labels.long()
    outside = ((widened < 0) | (widened >= num_classes)).nonzero()
    if len(outside):
        first = int(outside[0])
        raise ValueError(
            f"expected labels in [0, {num_classes}), got {int(widened[first])} at position {start + first}; there "
            f"are {num_classes} classes{_advice(widened, num_classes)}"
        )
    return widened


def flags(values: Tensor, what: str, like: Tensor | None = None) -> Tensor:
    """Convert flags (N,), boolean or the numbers 0 and 1, to bool.

    Args:
        values: Flags (N,).
        what: Name of the flags in messages.
        like: Tensor (N,) that they belong to.

    Raises:
        ValueError: If the shapes differ, or a flag is another number; -1 or NaN would count as true.
    """
    if like is not None and (like.ndim != 1 or values.shape != like.shape):
        raise ValueError(
            f"expected scores and {what} of one shape (N,), got {tuple(like.shape)} and {tuple(values.shape)}"
        )
    if values.dtype == torch.bool:
        return values
    wide = values if values.is_floating_point() else values.long()
    outside = ((wide != 0) & (wide != 1)).nonzero()
    if len(outside):
        first = outside[0].tolist()
        raise ValueError(
            f"expected {what} that are bool, or 0 or 1, got {wide[tuple(first)].item():g} at position {first[0]}"
        )
    return wide.bool()


def shares(values: Tensor, what: str, like: Tensor) -> Tensor:
    """Convert flags (N,), or fractions in [0, 1] in their place, to float64; arguments and errors as for `flags`."""
    if not values.is_floating_point() or values.shape != like.shape or like.ndim != 1:
        return flags(values, what, like).double()
    outside = (~((values >= 0) & (values <= 1))).nonzero()
    if len(outside):
        first = int(outside[0])
        raise ValueError(
            f"expected {what} that are bool, or 0 or 1, got {values[first].item():g} at position {first}; "
            "a share may be in between"
        )
    return values.double()


def _advice(labels: Tensor, num_classes: int) -> str:
    """Return what labels outside [0, C) may be, or nothing if it is unclear."""
    least, most = int(labels.min()), int(labels.max())
    if (least, most) == (-1, 1) and bool((labels != 0).all()):
        return "; pass (labels + 1) // 2 if −1 and 1 are the two classes"
    if least < 0:
        return f"; leave out examples without a label, if {least} stands for them"
    return "; subtract 1 if they are counted from 1" if least >= 1 and most == num_classes else ""
