"""Split delimited text into blocks of rows, and find the rows that are well formed.

Arrow, which parses the rows afterwards, does not report the line of an error, and reads an unclosed quote to the end of
the file. Therefore each row is checked first: its quotes must open and close at the ends of values, and its number of
fields must be right. A row that fails is a bad record and does not affect other rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np

from suffice.data.store.bad_records import BadRecords
from suffice.data.store.dataset import Array

BLOCK = 8 << 20
"""Bytes of text that are checked and parsed at once; limits the memory and the length of a row."""

_NEWLINE = ord("\n")


@dataclass(frozen=True)
class Dialect:
    """Syntax of delimited text.

    Attributes:
        delimiter: Delimiter between fields, one byte.
        quote: Quote around values that contain a delimiter, one byte; empty: quotes have no special meaning.
        multiline: Quoted values may contain line ends.
        text: Rows must be UTF-8 without null bytes, and empty lines are ignored.
    """

    delimiter: str
    quote: str = ""
    multiline: bool = False
    text: bool = False


@dataclass(frozen=True)
class Block:
    """Block of complete rows.

    Attributes:
        data: The rows, each terminated by a line feed.
        line: Number of the first line in the file, from 1.
    """

    data: bytes
    line: int


@dataclass(frozen=True)
class _Marks:
    """Delimiters, quotes and line feeds of a block, in order.

    Attributes:
        data: Bytes of the block, (B,) uint8.
        places: Positions of the M characters, (M,).
        signs: The characters, (M,) uint8.
        ending: Mask of line feeds that end a row, not those inside multiline values, (M,) bool.
        quotes: Number of quotes up to and including each position, (M,).
    """

    data: Array
    places: Array
    signs: Array
    ending: Array
    quotes: Array

    @classmethod
    def find(cls, block: bytes, dialect: Dialect) -> "_Marks":
        """Find the special characters of a block, which may end within a row."""
        data = np.frombuffer(block, dtype=np.uint8)
        places = np.flatnonzero(_is_special(data, dialect))
        signs = data[places]
        ending = signs == _NEWLINE
        quotes = _running_count(signs == ord(dialect.quote)) if dialect.quote else np.zeros(len(signs), dtype=np.int32)
        if dialect.multiline:
            ending &= quotes % 2 == 0
        return cls(data, places, signs, ending, quotes)

    @property
    def ends(self) -> Array:
        """Positions of the line feeds that end rows, (rows,)."""
        return self.places[self.ending]

    def by_row(self, chosen: Array) -> Array:
        """Return the number of chosen (M,) bool characters in each row, (rows,)."""
        return np.diff(_running_count(chosen)[self.ending], prepend=0)


def _is_special(data: Array, dialect: Dialect) -> Array:
    """Return the mask (B,) bool of delimiters, quotes and line feeds."""
    special: Array = (data == _NEWLINE) | (data == ord(dialect.delimiter))
    if dialect.quote:
        special |= data == ord(dialect.quote)
    return special


def _running_count(chosen: Array) -> Array:
    """Return the number of true values up to and including each position, int32."""
    return np.cumsum(chosen.view(np.int8), dtype=np.int32)


def _starts(ends: Array) -> Array:
    """Return the positions where the rows begin, from those of their ends."""
    return np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)


def read_blocks(stream: IO[bytes], dialect: Dialect, where: str) -> Iterator[Block]:
    """Yield blocks of complete rows, of about `BLOCK` bytes; line ends (CR LF, CR) become line feeds.

    Raises:
        ValueError: If a row is longer than a block, or a quote is not closed at the end of the file.
    """
    line, rest = 1, b""
    for chunk in _with_line_feeds(stream):
        data = rest + chunk
        ends = _Marks.find(data, dialect).ends if dialect.multiline else [data.rfind(b"\n")]
        end = int(ends[-1]) + 1 if len(ends) else 0
        if end:
            yield Block(data[:end], line)
            line += data.count(b"\n", 0, end)
        rest = data[end:]
        if len(rest) > BLOCK:
            why = ": a quote that opens there is never closed, or the line" if dialect.multiline else ", which"
            raise ValueError(f"line {line} of {where}: expected a row of text{why} is longer than {BLOCK:,} bytes")
    if rest:
        if dialect.multiline and rest.count(dialect.quote.encode()) % 2:
            raise ValueError(f"line {line} of {where}: expected quotes in pairs, got one that is never closed")
        yield Block(rest + b"\n", line)


def split_first_row(rows: Iterator[Block], dialect: Dialect) -> tuple[Block, Iterator[Block]]:
    """Return the first non-empty row as a block (empty if there is none), and an iterator over the remaining blocks."""
    for block in rows:
        ends = _Marks.find(block.data, dialect).ends
        nonempty = np.flatnonzero(ends > _starts(ends))
        if len(nonempty):
            start, end = int(_starts(ends)[nonempty[0]]), int(ends[nonempty[0]]) + 1
            line = block.line + block.data.count(b"\n", 0, start)
            head = Block(block.data[start:end], line)
            return head, _prepend(Block(block.data[end:], line + head.data.count(b"\n")), rows)
    return Block(b"", 1), iter(())


def filter_well_formed(
    block: Block, dialect: Dialect, fields: int, where: str, bad_records: BadRecords
) -> tuple[bytes, Array]:
    """Return the well-formed rows of a block, and the line number on which each begins.

    Args:
        block: Complete rows.
        dialect: Syntax of the text.
        fields: Expected number of fields of a row.
        where: Name of the file, for messages.
        bad_records: Policy for the other rows.

    Raises:
        ValueError: If a row is malformed, unless bad records are skipped.
    """
    marks = _Marks.find(block.data, dialect)
    ends = marks.ends
    starts = _starts(ends)
    numbers = block.line + np.arange(len(ends))
    if dialect.multiline:
        feeds = marks.by_row(marks.signs == _NEWLINE)
        numbers = block.line + np.cumsum(feeds) - feeds
    counts, unclosed, misplaced = _count_fields(marks, dialect)
    bad = (counts != fields) | unclosed | misplaced
    undecodable = _undecodable_rows(block.data, starts, ends) if dialect.text else {}
    bad[list(undecodable)] = True
    good = ~bad
    if dialect.text:
        blank = starts == ends
        good, bad = good & ~blank, bad & ~blank

    def describe(row: int) -> tuple[str, str]:
        why = f"expected {fields} fields, got {counts[row]}"
        if row in undecodable:
            why = undecodable[row]
        elif misplaced[row]:
            why = "expected quotes around whole values and doubled inside them, got one elsewhere"
        elif unclosed[row]:
            why = "expected quotes in pairs on each line (or multiline = true in a schema), got one that is not closed"
        return f"line {numbers[row]} of {where}", why

    bad_records.add_each(np.flatnonzero(bad).tolist(), describe)
    if good.all():
        return block.data, numbers
    return marks.data[np.repeat(good, ends + 1 - starts)].tobytes(), numbers[good]


def _count_fields(marks: _Marks, dialect: Dialect) -> tuple[Array, Array, Array]:
    """Return, per row, the number of fields, whether a quote is unclosed, and whether one is misplaced."""
    delimiters = marks.signs == ord(dialect.delimiter)
    misplaced = np.zeros(np.count_nonzero(marks.ending), dtype=bool)
    if not marks.quotes[-1]:
        return marks.by_row(delimiters) + 1, misplaced, misplaced
    until = marks.quotes[marks.ending]
    unclosed = np.diff(until, prepend=0) % 2 == 1
    inside = marks.quotes % 2 == 1
    if unclosed.any():  # each row begins outside of quotes, independent of earlier rows
        before = np.concatenate([[0], until[:-1]]).astype(np.int32)
        inside = (marks.quotes - before[_rows(marks)]) % 2 == 1
    quoting = marks.signs == ord(dialect.quote)
    places = marks.places[quoting]
    # the byte outside of each quote; index −1 before the first byte is the final line feed
    beside = marks.data[np.where(inside[quoting], places - 1, places + 1)]
    at_boundary = _is_special(beside, dialect)
    if not at_boundary.all():
        misplaced[_rows(marks)[quoting][~at_boundary]] = True
    return marks.by_row(delimiters & ~inside) + 1, unclosed, misplaced


def _rows(marks: _Marks) -> Array:
    """Return the row of each character (M,); a line feed belongs to the row that it ends."""
    return _running_count(marks.ending) - marks.ending


def _undecodable_rows(data: bytes, starts: Array, ends: Array) -> dict[int, str]:
    """Return the rows that are not valid text, with the reason."""
    try:
        data.decode()
        if b"\0" not in data:
            return {}
    except UnicodeDecodeError:
        pass
    reasons = {}
    for row, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        try:
            data[start:end].decode()
        except UnicodeDecodeError as error:
            byte = data[start + error.start]
            reasons[row] = f"expected UTF-8, got the byte {byte:#04x}; state the file's encoding in the schema"
        if b"\0" in data[start:end]:
            reasons[row] = "expected text, got a null byte"
    return reasons


def _with_line_feeds(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the chunks of a stream with every line end (CR LF, CR) replaced by a line feed."""
    pending = b""
    while chunk := stream.read(BLOCK):
        chunk, pending = pending + chunk, b""
        if chunk.endswith(b"\r"):  # its line feed may be in the next chunk
            chunk, pending = chunk[:-1], b"\r"
        yield chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in chunk else chunk
    if pending:
        yield b"\n"


def _prepend(block: Block, rows: Iterator[Block]) -> Iterator[Block]:
    if block.data:
        yield block
    yield from rows
