"""Tensors as bytes: little-endian numbers in row-major order, and strings with their lengths before them."""

import math
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suffice_runtime.http.codec.errors import ProtocolError
from suffice_runtime.http.codec.tensors import BYTES, DTYPES, shown

Array = NDArray[Any]

_LENGTH = struct.Struct("<I")


def decode(payload: memoryview, datatype: str, shape: tuple[int, ...], name: str) -> Array:
    """Return the array in some bytes, which it shares; strings are an array of objects.

    Raises:
        ProtocolError: If the number of bytes is not that of the shape, or they are none of the datatype.
    """
    count = math.prod(shape)
    if datatype == BYTES:
        return _strings(payload, count, name).reshape(shape)
    dtype = DTYPES[datatype]
    if count * dtype.itemsize != len(payload):
        raise ProtocolError(
            f"expected {count * dtype.itemsize:,} bytes for {shown(name)}, {datatype} of shape {shown(list(shape))}, "
            f"got {len(payload):,}; correct shape, datatype or binary_data_size"
        )
    if datatype == "BOOL" and (np.frombuffer(payload, dtype=np.uint8) > 1).any():
        raise ProtocolError(f"expected bytes of 0 and 1 for {shown(name)}, BOOL, got others; correct the datatype")
    array = np.frombuffer(payload, dtype=dtype)
    if not array.flags.aligned:
        array = array.copy()
    return array.reshape(shape)


def encode(array: Array) -> memoryview:
    """Return the bytes of an array, not copied if it holds numbers and is contiguous."""
    if array.dtype.kind == "O":
        return memoryview(b"".join(_lengths(array)))
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data


def _lengths(array: Array) -> Iterator[bytes]:
    """Yield the length of each string and the string; text is encoded as UTF-8."""
    for value in array.ravel().tolist():
        payload = value if isinstance(value, bytes) else str(value).encode()
        yield _LENGTH.pack(len(payload))
        yield payload


def _strings(payload: memoryview, count: int, name: str) -> Array:
    """Return the strings (count,) in some bytes."""
    if count * _LENGTH.size > len(payload):
        raise _wrong_strings(f"{count:,} strings", f"{len(payload):,} bytes", name)
    found, start = np.empty(count, dtype=object), 0
    for i in range(count):
        if start + _LENGTH.size > len(payload):
            raise _wrong_strings(f"{count:,} strings", f"{i:,}", name)
        (length,) = _LENGTH.unpack_from(payload, start)
        start += _LENGTH.size + length
        if start > len(payload):
            raise _wrong_strings(f"{length:,} bytes of string {i:,}", "the end of the tensor", name)
        found[i] = bytes(payload[start - length : start])
    if start != len(payload):
        raise _wrong_strings(f"{count:,} strings", f"{len(payload) - start:,} bytes behind them", name)
    return found


def _wrong_strings(expected: str, got: str, name: str) -> ProtocolError:
    return ProtocolError(f"expected {expected} in {shown(name)}, BYTES, got {got}; correct shape or binary_data_size")
