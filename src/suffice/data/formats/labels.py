"""Labels that are classes: integers from 0, one for each example."""

import numpy as np
import numpy.typing as npt

from suffice.data.store.dataset import Array


def check_range(labels: npt.ArrayLike, classes: int, where: str) -> Array:
    """Return labels (N,) as an array, if each of them is an integer in [0, classes).

    Args:
        labels: as they were read.
        classes: how many there are.
        where: what they were read from, for the message.

    Raises:
        ValueError: naming the first that is not.
    """
    found = np.asarray(labels) if np.size(labels) else np.empty(0, dtype=np.int64)
    if found.dtype.kind not in "iu" or found.ndim != 1:
        kind = f"{found.dtype} of shape {found.shape}"
        raise ValueError(f"expected whole numbers as labels, one for each example, got {kind} in {where}")
    wrong = np.flatnonzero((found < 0) | (found >= classes))
    if len(wrong):
        place = int(wrong[0])
        others = f" and {len(wrong) - 1:,} others" if len(wrong) > 1 else ""
        hint = "; they seem to count from 1" if found.min() == 1 and found.max() == classes else ""
        raise ValueError(
            f"expected labels in [0, {classes}), got {found[place]} at position {place}{others} in {where}{hint}"
        )
    return found


def check_count(labels: Array, count: int, where: str) -> Array:
    """Return labels (N,) as they are, if there are `count` of them.

    Raises:
        ValueError: naming both numbers.
    """
    if len(labels) != count:
        raise ValueError(f"expected a label for each of {count:,} images, got {len(labels):,} in {where}")
    return labels
