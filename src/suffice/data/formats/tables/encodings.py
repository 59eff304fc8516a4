"""Text files as UTF-8, whatever they are written in: by their byte order mark, or by what is said of them."""

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
"""Encodings by their marks; the first that fits, since that of UTF-32 begins like that of UTF-16."""
_PACKED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip (as Excel workbooks are)", b"BZh": "bzip2"}
_PACKED |= {b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstandard"}


def check(encoding: str) -> None:
    """Raise ValueError unless an encoding of text is called so."""
    try:
        io.TextIOWrapper(io.BytesIO(), encoding)
    except (LookupError, ValueError) as error:
        raise ValueError(f"expected an encoding, such as 'latin-1', 'cp1252' or 'utf-16', got {encoding!r}") from error


def open_text(file: Path, encoding: str | None) -> IO[bytes]:
    """A text file, opened to be read as UTF-8, without its byte order mark.

    Args:
        file: the text.
        encoding: what it is written in; None: UTF-8, or what its mark says.

    Raises:
        ValueError: if it is packed, or its mark says otherwise; at reading, if it is not written so.
    """
    stream = file.open("rb")
    try:
        head = stream.read(8)
        packed = next((name for magic, name in _PACKED.items() if head.startswith(magic)), None)
        if packed is not None:
            raise ValueError(f"expected text, got {file}, which is packed by {packed}; unpack it first")
        mark = next((mark for mark in _MARKS if head.startswith(mark)), b"")
        marked = _MARKS.get(mark, "")
        named = codecs.lookup(encoding or marked or "utf-8").name.removesuffix("-sig")
        if marked and not named.startswith(marked):
            raise ValueError(f"expected {encoding} as the schema says, got the byte order mark of {marked} in {file}")
        stream.seek(len(mark) if named == "utf-8" else 0)
        if named == "utf-8":
            return stream
        return cast(IO[bytes], _Recoded(io.TextIOWrapper(stream, named, newline=""), file))
    except BaseException:
        stream.close()
        raise


class _Recoded(io.RawIOBase):
    """Text of another encoding, read as UTF-8."""

    def __init__(self, text: io.TextIOWrapper, file: Path) -> None:
        self.text = text
        self.file = file
        self.line = 0

    def read(self, size: int = -1) -> bytes:
        """The UTF-8 of up to so many characters."""
        try:
            found = self.text.read(size)
            data = found.encode()
        except UnicodeError as error:
            place = f"behind line {self.line} of {self.file}"
            raise ValueError(f"expected text in {self.text.encoding}, got other bytes {place}: {error}") from error
        data = data if self.line else data.removeprefix(codecs.BOM_UTF8)
        self.line += found.count("\n")
        return data

    def close(self) -> None:
        """Close the file."""
        self.text.close()
        super().close()
