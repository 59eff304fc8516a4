"""Names and shapes of tensors in the protocol, and their bounds."""

import math
from typing import Any

import numpy as np

from suffice_runtime.bundle.entries import printable
from suffice_runtime.http.codec.errors import ProtocolError
from suffice_runtime.triton.repository import TYPES

_MOST_SHOWN, _MOST_BITS, _MOST_TEXT = 8, 128, 100

BYTES = "BYTES"
"""Datatype of strings of bytes."""

DTYPES = {datatype: np.dtype(name).newbyteorder("<") for name, datatype in TYPES.items()}
"""Types of the numbers of each datatype, little-endian as the protocol sends them."""

MAX_AXES = 32
"""Greatest number of axes of a tensor, which is that of NumPy 1."""

MAX_COUNT = 1 << 40
"""Greatest product of the sizes of the axes that are not 0."""


def datatype_of(dtype: np.dtype[Any]) -> str:
    """Return the datatype of arrays of a type; arrays of objects hold strings."""
    return BYTES if dtype.kind == "O" else TYPES[dtype.name]


def read_datatype(value: object, name: str) -> str:
    """Return the datatype of the tensor `name`, or raise a ProtocolError."""
    if not isinstance(value, str) or (value != BYTES and value not in DTYPES):
        known = ", ".join([*DTYPES, BYTES])
        raise ProtocolError(f"expected a datatype of {known} for {shown(name)}, got {shown(value)}; correct it")
    return value


def read_shape(value: object, name: str) -> tuple[int, ...]:
    """Return the shape of the tensor `name`, or raise a ProtocolError."""
    whole = isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)
    if not isinstance(value, list) or not whole:
        raise ProtocolError(
            f"expected a shape of whole numbers of at least 0 for {shown(name)}, got {shown(value)}; correct it"
        )
    if len(value) > MAX_AXES or math.prod(max(size, 1) for size in value) > MAX_COUNT:
        raise ProtocolError(
            f"expected a shape of at most {MAX_AXES} axes and {MAX_COUNT:,} elements for {shown(name)}, got "
            f"{len(value)} axes, {shown(value)}; send less at once"
        )
    return tuple(value)


def shown(value: object) -> str:
    """Return a value of a request as a message shows it, on one line and cut."""
    if isinstance(value, dict):
        return f"an object of {len(value):,} entries"
    if isinstance(value, list):
        short = len(value) <= _MOST_SHOWN and all(isinstance(one, (int, float)) for one in value)
        return f"[{', '.join(map(shown, value))}]" if short else f"a list of {len(value):,}"
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return "a whole number of more than 38 digits"
    return printable(repr(value[:_MOST_TEXT] if isinstance(value, str) else value))
