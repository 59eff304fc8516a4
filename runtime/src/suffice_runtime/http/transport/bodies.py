"""Bodies as they come from a client, up to the limits."""

import asyncio
from collections.abc import Mapping

from starlette.requests import Request
from starlette.types import Receive

from suffice_runtime.http.codec import compression
from suffice_runtime.http.codec.errors import ProtocolError, TooLargeError
from suffice_runtime.http.errors import GoneError, RequestError
from suffice_runtime.http.transport.limits import Held, Limits


async def read(request: Request, limits: Limits, held: Held) -> list[bytes]:
    """Return the chunks of the body of a request, decompressed.

    Args:
        request: Request whose body was not read.
        limits: Limits.
        held: Room that the bytes take.

    Raises:
        GoneError: If the client leaves.
        ProtocolError: If the body is too large, or damaged.
        RequestError: If it does not come in time, or there is no room.
    """
    encoding = compression.encoding_of(request.headers.get("content-encoding"))
    _check_size(_declared(request.headers), limits)
    try:
        async with asyncio.timeout(limits.body_seconds):
            chunks = await _received(request.receive, limits, held)
    except TimeoutError:
        raise RequestError(
            408, f"expected the whole body within {limits.body_seconds:g} s, got a part of it; send it faster"
        ) from None
    if encoding is None:
        return chunks
    whole = await asyncio.to_thread(compression.decompress, chunks, encoding, limits.body_bytes)
    held.add(sum(map(len, whole)))
    return whole


async def left(receive: Receive) -> None:
    """Return when the client of a request whose body was read has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _received(receive: Receive, limits: Limits, held: Held) -> list[bytes]:
    """Return the chunks of a body as they come."""
    chunks, total = list[bytes](), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise GoneError
        chunk = message.get("body", b"")
        total += len(chunk)
        _check_size(total, limits)
        held.add(len(chunk))
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks


def _declared(headers: Mapping[str, str]) -> int:
    """Return the size that a request states; 0 if it states none."""
    value = headers.get("content-length", "0")
    if not (value.isascii() and value.isdecimal()):
        raise ProtocolError("expected Content-Length as a whole number, got another value; correct it")
    return int(value[:_DIGITS]) if len(value) <= _DIGITS else 10**_DIGITS


_DIGITS = 18


def _check_size(size: int, limits: Limits) -> None:
    """Raise an error if a body is too large."""
    if size > limits.body_bytes:
        raise TooLargeError(f"expected at most {limits.body_bytes:,} bytes in a body, got more; send less at once")
