"""Tensors as lists of JSON, flat or nested as the shape is, in row-major order."""

import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suffice_runtime.http.codec.errors import ProtocolError
from suffice_runtime.http.codec.tensors import BYTES, DTYPES, shown

Array = NDArray[Any]

_ALLOWED: dict[str, tuple[frozenset[type], str]] = {
    "b": (frozenset((bool,)), "true and false"),
    "i": (frozenset((int,)), "whole numbers"),
    "u": (frozenset((int,)), "whole numbers"),
    "f": (frozenset((int, float)), "numbers"),
    "O": (frozenset((str,)), "strings"),
}
"""Types of Python's JSON that are elements of an array of each kind, and their name in messages."""


def decode(data: object, datatype: str, shape: tuple[int, ...], name: str) -> Array:
    """Return the array in a list; strings are an array of objects, encoded as UTF-8.

    Raises:
        ProtocolError: If the numbers of elements are not those of the shape, or an element is none of the datatype.
    """
    dtype = np.dtype(object) if datatype == BYTES else DTYPES[datatype]
    flat = _flattened(data, shape, name)
    allowed, what = _ALLOWED[dtype.kind]
    if others := set(map(type, flat)) - allowed:
        wrong = next(value for value in flat if type(value) in others)
        raise ProtocolError(f"expected {what} in {shown(name)}, {datatype}, got {shown(wrong)}; correct the data")
    if dtype.kind == "O":
        strings = np.empty(len(flat), dtype=object)
        strings[:] = [value.encode("utf-8", "surrogatepass") for value in flat]
        return strings.reshape(shape)
    if dtype.kind in "iu" and flat:
        _check_range(flat, dtype, datatype, name)
    try:
        with np.errstate(over="ignore"):  # infinities are refused by the network, which names the example
            return np.array(flat, dtype=dtype).reshape(shape)
    except OverflowError as error:
        raise ProtocolError(f"expected numbers of {datatype} in {shown(name)}, got one beyond; correct it") from error


def encode(array: Array) -> list[Any]:
    """Return the elements of an array; NaN, which JSON does not have, is null, and infinities are "inf" and "-inf"."""
    flat = array.ravel()
    if array.dtype.kind == "O":
        return [value.decode() if isinstance(value, bytes) else str(value) for value in flat.tolist()]
    values: list[Any] = flat.tolist()
    if array.dtype.kind == "f" and not np.isfinite(flat).all():
        return [value if math.isfinite(value) else None if math.isnan(value) else str(value) for value in values]
    return values


def _flattened(data: object, shape: tuple[int, ...], name: str) -> list[Any]:
    """Return the elements of a list, or of lists in lists whose lengths are those of a shape."""
    if not isinstance(data, list):
        raise ProtocolError(f"expected data of {shown(name)} as a list, got {shown(data)}; correct it")
    level = 0
    while data and isinstance(data[0], list):
        ragged = set(map(type, data)) != {list} or level + 1 >= len(shape) or len(data) != math.prod(shape[: level + 1])
        if ragged or set(map(len, data)) != {shape[level + 1]}:
            raise ProtocolError(
                f"expected lists of the shape {shown(list(shape))} in {shown(name)}, got others at level {level}; "
                "nest data as the shape is, or not at all"
            )
        data, level = list(itertools.chain.from_iterable(data)), level + 1
    if len(data) != math.prod(shape):
        raise ProtocolError(
            f"expected {math.prod(shape):,} elements for the shape {shown(list(shape))} in {shown(name)}, got "
            f"{len(data):,}; correct shape or data"
        )
    return data


def _check_range(flat: list[int], dtype: np.dtype[Any], datatype: str, name: str) -> None:
    """Raise a ProtocolError if a whole number is beyond a type, which NumPy would wrap around or make a float."""
    limits = np.iinfo(dtype)
    for value in (min(flat), max(flat)):
        if not limits.min <= value <= limits.max:
            raise ProtocolError(
                f"expected numbers from {limits.min} to {limits.max} in {shown(name)}, {datatype}, got "
                f"{shown(value)}; correct the data"
            )
