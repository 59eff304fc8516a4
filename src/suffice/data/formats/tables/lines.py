"""Rows of delimited text, in blocks: where they end, and which of them are well formed.

Arrow, which parses them afterwards, does not say on which line it failed, and takes a quote that is never closed for
the end of the file. So each row is looked at before: that its quotes open and close at the ends of values, and that it
has as many fields as it should. What is not so is a fault of its line, and costs that line alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np

from suffice.data.store.bad_records import BadRecords
from suffice.data.store.dataset import Array

BLOCK = 8 << 20
"""Bytes of text that are looked at and parsed at once: what bounds the memory, and the longest row."""

_NEWLINE = ord("\n")


@dataclass(frozen=True)
class Dialect:
    """How rows are written.

    Attributes:
        delimiter: between fields, one byte.
        quote: around values that hold a delimiter, one byte; empty where quotes are characters like others.
        multiline: whether quoted values may hold line ends.
        text: whether rows must be UTF-8 without null bytes, and empty lines are none.
    """

    delimiter: str
    quote: str = ""
    multiline: bool = False
    text: bool = False


@dataclass(frozen=True)
class Block:
    """Whole rows, each ended by a line feed; `line` is the number of the first line, from 1."""

    data: bytes
    line: int


@dataclass(frozen=True)
class _Marks:
    """The signs of a block that part it, in order.

    Attributes:
        data: the block's bytes.
        places: (M,) of its delimiters, quotes and line feeds.
        signs: (M,) what they are.
        ending: (M,) bool, those that end a row: line feeds, but for those in quoted values that may hold such.
        quotes: (M,) how many quotes there are up to each, itself counted.
    """

    data: Array
    places: Array
    signs: Array
    ending: Array
    quotes: Array

    @classmethod
    def of(cls, block: bytes, dialect: Dialect) -> "_Marks":
        """The signs of whole rows, or of the beginning of some."""
        data = np.frombuffer(block, dtype=np.uint8)
        places = np.flatnonzero(_any_of(data, dialect))
        signs = data[places]
        ending = signs == _NEWLINE
        quotes = _running(signs == ord(dialect.quote)) if dialect.quote else np.zeros(len(signs), dtype=np.int32)
        if dialect.multiline:
            ending &= quotes % 2 == 0
        return cls(data, places, signs, ending, quotes)

    @property
    def ends(self) -> Array:
        """Places of the line feeds that end rows."""
        return self.places[self.ending]

    def by_row(self, chosen: Array) -> Array:
        """How many of the chosen (M,) bool signs each row has."""
        return np.diff(_running(chosen)[self.ending], prepend=0)


def _any_of(data: Array, dialect: Dialect) -> Array:
    """Where a delimiter, a quote or a line feed is (N,) bool."""
    found: Array = (data == _NEWLINE) | (data == ord(dialect.delimiter))
    if dialect.quote:
        found |= data == ord(dialect.quote)
    return found


def _running(chosen: Array) -> Array:
    """How many are true up to each, itself counted."""
    return np.cumsum(chosen.view(np.int8), dtype=np.int32)


def _starts(ends: Array) -> Array:
    """Where rows begin that end so."""
    return np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)


def read_blocks(stream: IO[bytes], dialect: Dialect, where: str) -> Iterator[Block]:
    """Whole rows of about `BLOCK` bytes together; every line end (CR LF, CR) becomes a line feed.

    Raises:
        ValueError: for a row that is longer than a block, or a quote that is open at the end.
    """
    line, left = 1, b""
    for chunk in _with_line_feeds(stream):
        data = left + chunk
        ends = _Marks.of(data, dialect).ends if dialect.multiline else [data.rfind(b"\n")]
        end = int(ends[-1]) + 1 if len(ends) else 0
        if end:
            yield Block(data[:end], line)
            line += data.count(b"\n", 0, end)
        left = data[end:]
        if len(left) > BLOCK:
            why = ": a quote that opens there is never closed, or the line" if dialect.multiline else ", which"
            raise ValueError(f"line {line} of {where}: expected a row of text{why} is longer than {BLOCK:,} bytes")
    if left:
        if dialect.multiline and left.count(dialect.quote.encode()) % 2:
            raise ValueError(f"line {line} of {where}: expected quotes in pairs, got one that is never closed")
        yield Block(left + b"\n", line)


def split_first_row(rows: Iterator[Block], dialect: Dialect) -> tuple[Block, Iterator[Block]]:
    """The first row that is not empty, as a block of its own (empty if there is none), and the blocks of the others."""
    for block in rows:
        ends = _Marks.of(block.data, dialect).ends
        filled = np.flatnonzero(ends > _starts(ends))
        if len(filled):
            start, end = int(_starts(ends)[filled[0]]), int(ends[filled[0]]) + 1
            line = block.line + block.data.count(b"\n", 0, start)
            head = Block(block.data[start:end], line)
            return head, _chained(Block(block.data[end:], line + head.data.count(b"\n")), rows)
    return Block(b"", 1), iter(())


def filter_well_formed(
    block: Block, dialect: Dialect, fields: int, where: str, bad_records: BadRecords
) -> tuple[bytes, Array]:
    """The rows of a block that are well formed, and the number of the line that each begins on.

    Args:
        block: whole rows.
        dialect: how they are written.
        fields: that each has.
        where: the file, for messages.
        bad_records: told of the others.
    """
    marks = _Marks.of(block.data, dialect)
    ends = marks.ends
    starts = _starts(ends)
    numbers = block.line + np.arange(len(ends))
    if dialect.multiline:
        feeds = marks.by_row(marks.signs == _NEWLINE)
        numbers = block.line + np.cumsum(feeds) - feeds
    found, unclosed, misplaced = _count_fields(marks, dialect)
    wrong = (found != fields) | unclosed | misplaced
    unclean = _unclean(block.data, starts, ends) if dialect.text else {}
    wrong[list(unclean)] = True
    kept = ~wrong
    if dialect.text:
        blank = starts == ends
        kept, wrong = kept & ~blank, wrong & ~blank

    def describe(row: int) -> tuple[str, str]:
        why = f"expected {fields} fields, got {found[row]}"
        if row in unclean:
            why = unclean[row]
        elif misplaced[row]:
            why = "expected quotes around whole values and doubled inside them, got one elsewhere"
        elif unclosed[row]:
            why = "expected quotes in pairs on each line (or multiline = true in a schema), got one that is not closed"
        return f"line {numbers[row]} of {where}", why

    bad_records.add_each(np.flatnonzero(wrong).tolist(), describe)
    if kept.all():
        return block.data, numbers
    return marks.data[np.repeat(kept, ends + 1 - starts)].tobytes(), numbers[kept]


def _count_fields(marks: _Marks, dialect: Dialect) -> tuple[Array, Array, Array]:
    """Of each row: how many fields, whether a quote is left open, and whether one stands where none may."""
    delimiters = marks.signs == ord(dialect.delimiter)
    misplaced = np.zeros(np.count_nonzero(marks.ending), dtype=bool)
    if not marks.quotes[-1]:
        return marks.by_row(delimiters) + 1, misplaced, misplaced
    until = marks.quotes[marks.ending]
    unclosed = np.diff(until, prepend=0) % 2 == 1
    inside = marks.quotes % 2 == 1
    if unclosed.any():  # each row begins outside of quotes, whatever the rows before
        before = np.concatenate([[0], until[:-1]]).astype(np.int32)
        inside = (marks.quotes - before[_rows(marks)]) % 2 == 1
    quoting = marks.signs == ord(dialect.quote)
    places = marks.places[quoting]
    beside = marks.data[np.where(inside[quoting], places - 1, places + 1)]  # before the first is the last, a line feed
    fits = _any_of(beside, dialect)
    if not fits.all():
        misplaced[_rows(marks)[quoting][~fits]] = True
    return marks.by_row(delimiters & ~inside) + 1, unclosed, misplaced


def _rows(marks: _Marks) -> Array:
    """The row that each sign is of; a line feed is of the row that it ends."""
    return _running(marks.ending) - marks.ending


def _unclean(data: bytes, starts: Array, ends: Array) -> dict[int, str]:
    """Rows that are no text, by number, and why."""
    try:
        data.decode()
        if b"\0" not in data:
            return {}
    except UnicodeDecodeError:
        pass
    found = {}
    for row, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        try:
            data[start:end].decode()
        except UnicodeDecodeError as error:
            byte = data[start + error.start]
            found[row] = f"expected UTF-8, got the byte {byte:#04x}; state the file's encoding in the schema"
        if b"\0" in data[start:end]:
            found[row] = "expected text, got a null byte"
    return found


def _with_line_feeds(stream: IO[bytes]) -> Iterator[bytes]:
    held = b""
    while chunk := stream.read(BLOCK):
        chunk, held = held + chunk, b""
        if chunk.endswith(b"\r"):  # its line feed may be in the next one
            chunk, held = chunk[:-1], b"\r"
        yield chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in chunk else chunk
    if held:
        yield b"\n"


def _chained(block: Block, rows: Iterator[Block]) -> Iterator[Block]:
    if block.data:
        yield block
    yield from rows
