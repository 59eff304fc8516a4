"""Read large delimited text in blocks: parsed by Arrow, malformed lines found by their number.

Blocks end at line ends and are checked for the number of fields before Arrow sees them, since Arrow does not say
on which line it failed. Values are converted from text column by column; a value that does not convert is a
fault of its line.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import numpy as np

from suffice.data.entry import Faults
from suffice.data.store import Array

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 8 << 20
"""Bytes of text that are parsed at once: what bounds the memory."""

_NO_DIGIT = np.ones(256, dtype=bool)
_NO_DIGIT[np.frombuffer(b"0123456789abcdefABCDEF", dtype=np.uint8)] = False
_ONES = 0x0101010101010101


@dataclass(frozen=True)
class Rows:
    """Rows of text: a table of strings (null where empty), and the number of each row's line, or of the row itself."""

    table: "pa.Table"
    lines: Array
    unit: str = "line"

    def keep(self, good: Array) -> "Rows":
        """The rows where `good` (N,) bool."""
        return Rows(self.table.filter(good), self.lines[good], self.unit)


def blocks(stream: IO[bytes], size: int = BLOCK) -> Iterator[tuple[int, bytes]]:
    """Whole lines of about `size` bytes together, with the number of the first, from 1."""
    line, left = 1, b""
    while data := stream.read(size):
        data = left + data
        end = data.rfind(b"\n") + 1
        if end:
            yield line, data[:end]
            line += data.count(b"\n", 0, end)
        left = data[end:]
        if len(left) > size:
            raise ValueError(f"expected lines of text, got {len(left):,} bytes without a line end from line {line}")
    if left:
        yield line, left + b"\n"


def rows(stream: IO[bytes], names: Sequence[str], delimiter: bytes, where: str, faults: Faults) -> Iterator[Rows]:
    """The rows of a text without quotes and header, a block at a time.

    Args:
        stream: of the text.
        names: of the columns.
        delimiter: one byte.
        where: the file, for messages.
        faults: told of lines with another number of fields.
    """
    import pyarrow as pa
    from pyarrow import csv

    kinds = {name: pa.string() for name in names}
    parse = csv.ParseOptions(delimiter=delimiter.decode(), quote_char=False, ignore_empty_lines=False)
    convert = csv.ConvertOptions(column_types=kinds, null_values=[""], strings_can_be_null=True, check_utf8=False)
    for first, block in blocks(stream):
        good, numbers = _well_formed(block, first, delimiter[0], len(names), where, faults)
        if len(numbers):
            read = csv.ReadOptions(column_names=list(names))
            yield Rows(csv.read_csv(io.BytesIO(good), read, parse, convert), numbers)


def _well_formed(
    block: bytes, first: int, delimiter: int, fields: int, where: str, faults: Faults
) -> tuple[bytes, Array]:
    """The block without the lines that have another number of fields, and the numbers of those left."""
    data = np.frombuffer(block, dtype=np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    found = np.diff(np.searchsorted(np.flatnonzero(data == delimiter), ends), prepend=0) + 1
    numbers = first + np.arange(len(ends))
    wrong = found != fields
    if not wrong.any():
        return block, numbers
    for index in np.flatnonzero(wrong):
        faults.add(f"line {numbers[index]} of {where}", f"expected {fields} fields, got {found[index]}")
    lines = block.split(b"\n")
    return b"".join(lines[index] + b"\n" for index in np.flatnonzero(~wrong)), numbers[~wrong]


def converted(rows: Rows, kinds: dict[str, str], where: str, faults: Faults) -> Rows:
    """Columns as numbers of an Arrow type (`int32`, `float32`, …), or of `hex32`: up to 8 hexadecimal digits, uint32.

    Rows with a value that does not convert are faults; other columns stay as they are.
    """
    import pyarrow as pa

    good = np.ones(len(rows.lines), dtype=bool)
    columns = {name: rows.table[name] for name in rows.table.column_names}
    for name, kind in kinds.items():
        column, bad = hexadecimal(rows.table[name]) if kind == "hex32" else _number(rows.table[name], kind)
        for index in np.flatnonzero(bad & good):
            expected = "up to 8 hexadecimal digits" if kind == "hex32" else kind
            got = _shown(rows.table[name][int(index)])
            faults.add(f"{rows.unit} {rows.lines[index]} of {where}", f"expected {name} as {expected}, got {got}")
        good &= ~bad
        columns[name] = column
    result = Rows(pa.table(columns), rows.lines, rows.unit)
    return result if good.all() else result.keep(good)


def _shown(value: "pa.Scalar") -> str:
    try:
        return str(value)
    except UnicodeDecodeError:
        return repr(value.as_buffer().to_pybytes())


def _number(column: "pa.ChunkedArray", kind: str) -> tuple["pa.ChunkedArray", Array]:
    """The column as numbers, and where that failed (null there)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    none = np.zeros(len(column), dtype=bool)
    try:
        return pc.cast(column, kind), none
    except (pa.ArrowInvalid, UnicodeDecodeError):
        pass
    bad = none
    for index, value in enumerate(column):
        try:
            pc.cast(value, kind)
        except (pa.ArrowInvalid, UnicodeDecodeError):
            bad[index] = True
    return pc.cast(pc.if_else(pa.array(bad), None, column), kind), bad


def hexadecimal(column: "pa.ChunkedArray") -> tuple["pa.Array", Array]:
    """Text of up to 8 hexadecimal digits as uint32, null where empty; and where it is none (null there too)."""
    import pyarrow as pa

    column = column.combine_chunks()
    _, offsets, characters = column.buffers()
    start = np.frombuffer(offsets, dtype=np.int32)[column.offset : column.offset + len(column) + 1]
    data = np.frombuffer(characters or b"", dtype=np.uint8)[start[0] : start[-1]]
    length = np.diff(start)
    present, bad = length > 0, length > 8
    if bad.any():
        data, length = data[np.repeat(~bad, length)], np.where(bad, 0, length)
    if not (present == (length == 8)).all():  # shorter ones: zeros in front
        padded = np.full((np.count_nonzero(present), 8), ord("0"), dtype=np.uint8)
        padded[np.arange(8) >= 8 - length[present, None]] = data
        data = padded.reshape(-1)
    value = np.zeros(len(column), dtype=np.uint32)
    value[present] = _eight_digits(data)
    no_digit = _NO_DIGIT[data]
    if no_digit.any():
        bad[np.flatnonzero(present)[no_digit.reshape(-1, 8).any(axis=1)]] = True
    return pa.array(value, mask=bad | ~present), bad


def _eight_digits(data: Array) -> Array:
    """Numbers (N,) uint32 of 8 digits each, (8 N,) uint8: all digits of a number at once, in one 64-bit word."""
    words = np.ascontiguousarray(data).view("<u8")
    digits = (words & np.uint64(0x0F0F0F0F0F0F0F0F)) + np.uint64(9) * (words >> np.uint64(6) & np.uint64(_ONES))
    for shift, mask in ((4, 0x00FF00FF00FF00FF), (8, 0x0000FFFF0000FFFF), (16, 0xFFFFFFFF)):
        digits = (digits << np.uint64(shift) | digits >> np.uint64(2 * shift)) & np.uint64(mask)
    return digits.astype(np.uint32)
