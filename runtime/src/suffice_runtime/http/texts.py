"""Texts in place of arrays, for models whose bundle has a tokenizer: the input "text", a string for each example."""

import asyncio
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from suffice_runtime.http.codec.errors import ProtocolError
from suffice_runtime.http.codec.tensors import datatype_of, shown
from suffice_runtime.serving.engine import Engine

Array = NDArray[Any]

TEXT = "text"
"""Name of the input."""

_FEW = 16
"""Number of texts above which a thread of its own encodes them."""


def takes_texts(engine: Engine) -> bool:
    """Return whether a model answers texts."""
    return engine.manifest.tokenizer is not None


async def to_arrays(engine: Engine, x: dict[str, Array]) -> dict[str, Array]:
    """Return the inputs of a request, which are made of its texts if it has these.

    Raises:
        ProtocolError: If there are other inputs too, or no strings, or the model does not take one of the texts.
    """
    if TEXT not in x or not takes_texts(engine):
        return x
    texts = _strings(x)
    try:
        return engine.encode(texts) if len(texts) <= _FEW else await asyncio.to_thread(engine.encode, texts)
    except ValueError as error:
        raise ProtocolError(str(error)) from error


def _strings(x: Mapping[str, Array]) -> list[str]:
    """Return the texts of a request."""
    if len(x) > 1:
        others = [name for name in x if name != TEXT]
        raise ProtocolError(f"expected {TEXT!r} alone, or arrays, got also {shown(others[0])}; leave one out")
    array = x[TEXT]
    if array.dtype.kind != "O" or array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[1] != 1):
        raise ProtocolError(
            f"expected {TEXT!r} as BYTES of shape [N] or [N, 1], got {datatype_of(array.dtype)} of shape "
            f"{shown(list(array.shape))}; send a string for each example"
        )
    found = list[str]()
    for i, value in enumerate(array.ravel().tolist()):
        try:
            found.append(value.decode())
        except UnicodeDecodeError as error:
            raise ProtocolError(f"expected {TEXT!r} in UTF-8, got other bytes at position {i}; encode it") from error
    return found
