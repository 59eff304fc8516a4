"""Checks of what a monitor is given."""

import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def check_open(name: str, value: float) -> float:
    """Return a number as a float, or raise a ValueError unless it is in (0, 1)."""
    if not 0 < value < 1:
        raise ValueError(f"expected {name} between 0 and 1, got {value}")
    return float(value)


def check_whole(name: str, value: int, least: int) -> int:
    """Return a whole number as an int, or raise a ValueError unless it is at least `least`."""
    whole = operator.index(value)
    if whole < least:
        raise ValueError(f"expected {name} of at least {least}, got {value}")
    return whole


def read_observations(values: ArrayLike, streams: tuple[int, ...]) -> Floats:
    """Return observations (n, *streams) as finite float64.

    A ValueError names both shapes if they differ, and the place of a value that is NaN or infinite.
    """
    if np.ma.isMaskedArray(values):
        raise TypeError("expected observations without a mask, got a masked array; pass the unmasked ones")
    array: NDArray[Any] = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"expected observations as numbers, got the type {array.dtype}")
    if array.ndim != 1 + len(streams) or array.shape[1:] != streams:
        expected = ", ".join(("n", *map(str, streams)))
        raise ValueError(f"expected observations of shape ({expected}), in order of time, got {array.shape}")
    return _refuse(array.astype(np.float64), np.isfinite(array), "finite observations,")


def read_unit(values: ArrayLike, streams: tuple[int, ...]) -> Floats:
    """Return observations (n, *streams) in [0, 1], float64, or raise an error that names the first outside."""
    array = read_observations(values, streams)
    return _refuse(array, (array >= 0) & (array <= 1), "losses in [0, 1], divided by their greatest value if needed,")


def _refuse(array: Floats, valid: NDArray[np.bool_], what: str) -> Floats:
    """Return the array, or raise a ValueError that names the first value that is not valid."""
    if not valid.all():
        at = tuple(int(i) for i in np.argwhere(~valid)[0])
        raise ValueError(f"expected {what} got {array[at]:g} at position {at[0] if len(at) == 1 else at}")
    return array
