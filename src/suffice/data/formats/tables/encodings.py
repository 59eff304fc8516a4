"""Read text files of any encoding as UTF-8; the encoding is given, or detected by the byte order mark."""

import codecs
import io
from pathlib import Path
from typing import IO, cast

_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Encodings by byte order mark; in this order, since the mark of UTF-32 begins with that of UTF-16."""
_COMPRESSED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip (as Excel workbooks are)", b"BZh": "bzip2"}
_COMPRESSED |= {b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstandard"}


def check(encoding: str) -> None:
    """Raise a ValueError unless a text encoding has this name."""
    try:
        io.TextIOWrapper(io.BytesIO(), encoding)
    except (LookupError, ValueError) as error:
        raise ValueError(f"expected an encoding, such as 'latin-1', 'cp1252' or 'utf-16', got {encoding!r}") from error


def open_text(file: Path, encoding: str | None) -> IO[bytes]:
    """Open a text file for reading as UTF-8, without its byte order mark.

    Args:
        file: Path of the text.
        encoding: Encoding of the file; None: that of the byte order mark, or UTF-8.

    Raises:
        ValueError: If the file is compressed or its mark contradicts the encoding; while reading, if the contents are
            invalid in the encoding.
    """
    stream = file.open("rb")
    try:
        head = stream.read(8)
        compression = next((name for magic, name in _COMPRESSED.items() if head.startswith(magic)), None)
        if compression is not None:
            raise ValueError(f"expected text, got {file}, which is compressed with {compression}; decompress it first")
        mark = next((mark for mark in _MARKS if head.startswith(mark)), b"")
        marked = _MARKS.get(mark, "")
        named = codecs.lookup(encoding or marked or "utf-8").name.removesuffix("-sig")
        if marked and not named.startswith(marked):
            raise ValueError(
                f"expected {encoding} according to the schema, got the byte order mark of {marked} in {file}"
            )
        stream.seek(len(mark) if named == "utf-8" else 0)
        if named == "utf-8":
            return stream
        return cast(IO[bytes], _Recoded(io.TextIOWrapper(stream, named, newline=""), file))
    except BaseException:
        stream.close()
        raise


class _Recoded(io.RawIOBase):
    """Text stream of another encoding, read as UTF-8."""

    def __init__(self, text: io.TextIOWrapper, file: Path) -> None:
        self.text = text
        self.file = file
        self.line = 0

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` characters in UTF-8."""
        try:
            characters = self.text.read(size)
            data = characters.encode()
        except UnicodeError as error:
            place = f"after line {self.line} of {self.file}"
            raise ValueError(f"expected text in {self.text.encoding}, got other bytes {place}: {error}") from error
        data = data if self.line else data.removeprefix(codecs.BOM_UTF8)
        self.line += characters.count("\n")
        return data

    def close(self) -> None:
        """Close the file."""
        self.text.close()
        super().close()
