"""Compressed bodies, which are read up to a limit."""

import zlib
from collections.abc import Iterator, Sequence

from suffice_runtime.http.codec.errors import EncodingError, ProtocolError, TooLargeError
from suffice_runtime.http.codec.tensors import shown

_WINDOW = {"gzip": 31, "deflate": 15}
"""Formats of zlib; "deflate" in HTTP is its own format with a checksum (RFC 9110, 8.4.1.2)."""

_LEVEL = 1
"""Level of compression: numbers hardly shrink, and higher levels take much longer."""

_STEP = 1 << 16


def encoding_of(value: str | None) -> str | None:
    """Return the encoding that a Content-Encoding states, or None for a body as it is.

    Raises:
        EncodingError: If it is another one, or several.
    """
    name = (value or "identity").strip().lower()
    if name == "identity":
        return None
    if name not in _WINDOW:
        raise EncodingError(f"expected Content-Encoding as one of {', '.join(_WINDOW)}, got {shown(value)}; send those")
    return name


def decompress(chunks: Sequence[bytes], encoding: str, most: int) -> list[bytes]:
    """Return the chunks of a body that was compressed.

    Args:
        chunks: Chunks of the compressed body.
        encoding: "gzip" or "deflate".
        most: Greatest number of bytes of the result; no more are decompressed.

    Raises:
        ProtocolError: If it is damaged, cut, or something is behind it.
        TooLargeError: If there are more bytes.
    """
    found, total = list[bytes](), 0
    for part in _decompressed(chunks, encoding):
        total += len(part)
        if total > most:
            raise TooLargeError(f"expected at most {most:,} bytes in a decompressed body, got more; send less at once")
        found.append(part)
    return found


def compress(body: bytes, encoding: str) -> bytes:
    """Return a compressed body."""
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW[encoding])
    return compressor.compress(body) + compressor.flush()


def accepted(value: str | None) -> str | None:
    """Return the encoding that an Accept-Encoding prefers, or None for a body as it is."""
    weights = dict[str, float]()
    for item in (value or "").lower().split(","):
        name, _, weight = item.partition(";")
        weights[name.strip()] = _weight(weight)
    known = {name: weights.get(name, weights.get("*", 0.0)) for name in _WINDOW}
    best = max(known, key=lambda name: known[name])
    return best if known[best] > 0 and known[best] >= weights.get("identity", 0.0) else None


def _weight(text: str) -> float:
    """Return the weight in "q=0.5"; 1 without one, and 0 for anything else."""
    name, _, number = text.strip().partition("=")
    if not name:
        return 1.0
    try:
        return float(number) if name.strip() == "q" else 0.0
    except ValueError:
        return 0.0


def _decompressed(chunks: Sequence[bytes], encoding: str) -> Iterator[bytes]:
    """Yield the parts of a decompressed body, none of them large."""
    decompressor, behind = zlib.decompressobj(_WINDOW[encoding]), 0
    try:
        for chunk in chunks:
            waiting = chunk
            while waiting and not decompressor.eof:
                yield decompressor.decompress(waiting, _STEP)
                waiting = decompressor.unconsumed_tail
            behind += len(waiting)
        while not decompressor.eof and (part := decompressor.decompress(b"", _STEP)):
            yield part
    except zlib.error as error:
        raise ProtocolError(f"expected a body in {encoding}, got a damaged one: {error}; compress it again") from None
    if not decompressor.eof or behind or decompressor.unused_data:
        got = "bytes behind its end" if decompressor.eof else "one that is cut"
        raise ProtocolError(f"expected a whole body in {encoding}, got {got}; compress it again")
