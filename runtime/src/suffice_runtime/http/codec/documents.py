"""JSON of requests and responses, and the place where the tensors begin behind it."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from suffice_runtime.http.codec.errors import ProtocolError
from suffice_runtime.http.codec.tensors import shown

HEADER = "Inference-Header-Content-Length"
"""Name of the HTTP header with the number of bytes of JSON before the tensors."""

_ALIGNMENT = 8
_DIGITS = 18


def header_length(value: str | None, total: int | None = None) -> int | None:
    """Return the number of bytes of JSON that an HTTP header states, or None if there is no such header.

    Args:
        value: Value of the HTTP header.
        total: Number of bytes of the body, if it is known.

    Raises:
        ProtocolError: If it is no number, or is above the number of bytes of the body.
    """
    if value is None:
        return None
    if not (value.isascii() and value.isdecimal() and len(value) <= _DIGITS):
        raise ProtocolError(f"expected {HEADER} as a whole number, got {shown(value)}; send the length of the JSON")
    length = int(value)
    if total is not None and length > total:
        raise ProtocolError(
            f"expected {HEADER} of at most the {total:,} bytes of the body, got {length:,}; send the length of the JSON"
        )
    return length


def join(chunks: Sequence[bytes], length: int | None) -> memoryview:
    """Return the chunks of a body in one buffer.

    The byte at `length`, where the first tensor begins, is aligned, so that it need not be copied again. Memory of
    NumPy is filled faster than that of a new bytes object, by a factor of 5 for 60 MB.
    """
    pad = -(length or 0) % _ALIGNMENT
    buffer = np.empty(pad + sum(map(len, chunks)), dtype=np.uint8).data
    start = pad
    for chunk in chunks:
        buffer[start : start + len(chunk)] = chunk
        start += len(chunk)
    return buffer[pad:]


def parse(payload: memoryview | bytes) -> dict[str, Any]:
    """Return the object in some JSON.

    NaN and Infinity are read as numbers, as clients in C++ write them; the network refuses them by example.

    Raises:
        ProtocolError: If it is no JSON, nested too deeply, no object, or an object has a name twice.
    """
    try:
        found = json.loads(str(payload, "utf-8"), object_pairs_hook=_unique)
    except ProtocolError:
        raise
    except RecursionError:
        raise ProtocolError("expected JSON that is nested less deeply, got more than 900 levels; flatten it") from None
    except ValueError as error:
        reason = shown(str(error).partition("\n")[0])
        raise ProtocolError(f"expected a JSON object in UTF-8, got something else: {reason}; correct it") from None
    if not isinstance(found, dict):
        raise ProtocolError(f"expected a JSON object, got {shown(found)}; see /openapi.json")
    return found


def dump(document: Any) -> bytes:
    """Return the JSON of a document, in ASCII."""
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()


def check_names(entries: dict[str, Any], known: Sequence[str], where: str, name: str | None = None) -> None:
    """Raise a ProtocolError for an entry that is not known, which might be a slip that changes the answer.

    Args:
        entries: Entries of an object.
        known: Names that it may have.
        where: What the object is.
        name: Name of the tensor that it is about, or None.
    """
    for entry in entries:
        if entry not in known:
            about = place(where, name)
            raise ProtocolError(f"expected entries {', '.join(known)} in {about}, got {shown(entry)}; leave it out")


def place(where: str, name: str | None = None) -> str:
    """Return a place in a request as a message shows it."""
    return where if name is None else f"{where} {shown(name)}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object, or raise a ProtocolError if a name comes twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(name for name, number in Counter(name for name, _ in pairs).items() if number > 1)
        raise ProtocolError(f"expected each name once in an object, got {shown(twice)} twice; leave one out")
    return found
