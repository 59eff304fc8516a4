"""Checks of class labels: integers from 0, one per example."""

import numpy as np
import numpy.typing as npt

from suffice.data.store.dataset import Array


def check_range(labels: npt.ArrayLike, classes: int, where: str) -> Array:
    """Return labels (N,) as an array, after checking that they are integers in [0, classes).

    Args:
        labels: Labels from a file.
        classes: Number of classes.
        where: Name of the file, for the error message.

    Raises:
        ValueError: If a label is not valid; the message states the first such label and its position.
    """
    array = np.asarray(labels) if np.size(labels) else np.empty(0, dtype=np.int64)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        kind = f"{array.dtype} of shape {array.shape}"
        raise ValueError(f"expected whole numbers as labels, one for each example, got {kind} in {where}")
    wrong = np.flatnonzero((array < 0) | (array >= classes))
    if len(wrong):
        place = int(wrong[0])
        others = f" and {len(wrong) - 1:,} others" if len(wrong) > 1 else ""
        hint = "; they seem to start at 1" if array.min() == 1 and array.max() == classes else ""
        raise ValueError(
            f"expected labels in [0, {classes}), got {array[place]} at position {place}{others} in {where}{hint}"
        )
    return array


def check_count(labels: Array, count: int, where: str) -> Array:
    """Return labels (N,) unchanged, after checking that there are `count` of them.

    Raises:
        ValueError: If their number differs.
    """
    if len(labels) != count:
        raise ValueError(f"expected a label for each of {count:,} images, got {len(labels):,} in {where}")
    return labels
