"""Values of columns, checked and made numbers: what is none is a fault of its row."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from suffice.data.store.bad_records import BadRecords
from suffice.data.store.dataset import Array

if TYPE_CHECKING:
    import pyarrow as pa

SHOWN = 60
"""Characters of a value that a message shows."""

_EXPECTED = {"hex32": "up to 8 hexadecimal digits", "float32": "a finite number"}
"""What a kind is called in messages, if not by its own name."""
_NOTHING = {repr(text) for text in ("nan", "na", "n/a", "null", "none", "nil", "?", "-", ".", " ")}
"""How programs write that a value is missing."""
_NUMBERS = {"float32": r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"}
"""What numbers look like as text, those that are not whole."""
_NO_DIGIT = np.ones(256, dtype=bool)
_NO_DIGIT[np.frombuffer(b"0123456789abcdefABCDEF", dtype=np.uint8)] = False
_ONES = 0x0101010101010101


@dataclass(frozen=True)
class Rows:
    """Rows of a file: a table, null where nothing is, and the number of each row's line, or of the row itself."""

    table: "pa.Table"
    numbers: Array
    unit: str = "line"

    def keep(self, good: Array) -> "Rows":
        """The rows where `good` (N,) bool."""
        return self if good.all() else Rows(self.table.filter(good), self.numbers[good], self.unit)

    def with_nulls(self, missing: Sequence[str]) -> "Rows":
        """The rows, null where text is one of those that mean that a value is missing."""
        import pyarrow as pa
        import pyarrow.compute as pc

        table = self.table
        for place, name in enumerate(table.column_names if missing else []):
            if pa.types.is_string(table[name].type):
                gone = pc.is_in(table[name], pa.array(missing))
                table = table.set_column(place, name, pc.if_else(gone, None, table[name]))
        return Rows(table, self.numbers, self.unit)

    def report_bad(
        self, bad: Array, name: str, expected: str, where: str, bad_records: BadRecords, advice: str = ""
    ) -> None:
        """Note a fault for each row where `bad` (N,) bool, because of its value in a column.

        The advice is for values that look as if they meant that none is there.
        """

        def describe(row: int) -> tuple[str, str]:
            value = format_value(self.table[name][row])
            more = advice if value.casefold() in _NOTHING else ""
            return f"{self.unit} {self.numbers[row]} of {where}", f"expected {name} as {expected}, got {value}{more}"

        bad_records.add_each(np.flatnonzero(bad).tolist(), describe)


def format_value(value: "pa.Scalar") -> str:
    """A value as it is put into a message."""
    try:
        found = value.as_py()
    except UnicodeDecodeError:
        found = value.as_buffer().to_pybytes()
    if found is None:
        return "none"
    text = repr(found)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… of {len(text):,} characters"


def convert(rows: Rows, kinds: dict[str, str], where: str, bad_records: BadRecords, advice: str = "") -> Rows:
    """Columns as numbers of an Arrow type (`int32`, `float32`, …), or of `hex32`: up to 8 hexadecimal digits, uint32.

    Rows with a value that does not convert are bad_records, and so are those with a number that is not finite; what is
    missing stays so, and other columns stay as they are. The advice is for values that mean that none is there.
    """
    import pyarrow as pa

    good = np.ones(len(rows.numbers), dtype=bool)
    columns = {name: rows.table[name] for name in rows.table.column_names}
    for name, kind in kinds.items():
        columns[name], bad = parse_hex(rows.table[name]) if kind == "hex32" else _number(rows.table[name], kind)
        rows.report_bad(bad & good, name, _EXPECTED.get(kind, kind), where, bad_records, advice)
        good &= ~bad
    return Rows(pa.table(columns), rows.numbers, rows.unit).keep(good)


def require_numbers(
    rows: Rows, name: str, where: str, bad_records: BadRecords, *, low: float = -math.inf, high: float = math.inf
) -> Rows:
    """The rows with a number in [low, high] in a column; those with none there or another one are bad_records."""
    import pyarrow.compute as pc

    column = rows.table[name]
    fits = pc.and_(pc.greater_equal(column, low), pc.less_equal(column, high)).fill_null(False).to_numpy()
    expected = "a number" if high == math.inf else f"a number from {low:g} to {high:g}"
    rows.report_bad(~fits, name, expected, where, bad_records)
    return rows.keep(fits)


def _number(column: "pa.ChunkedArray", kind: str) -> tuple["pa.ChunkedArray", Array]:
    """The column as numbers, and where that failed (null there)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pa.types.is_string(column.type)
    lenient = kind == "float32" and not text  # numbers are rounded to its precision
    bad = np.zeros(len(column), dtype=bool)
    try:
        found = pc.cast(column, kind, safe=not lenient)
    except (pa.ArrowInvalid, UnicodeDecodeError):
        if text:  # most of what fails, at once
            bad = ~pc.match_substring_regex(column, _NUMBERS.get(kind, "^-?[0-9]+$")).fill_null(True).to_numpy()
        found = _one_by_one(pc.if_else(pa.array(bad), None, column), kind, bad)
    if kind == "float32":
        bad |= ~pc.is_finite(found).fill_null(True).to_numpy()
    elif text:  # Arrow reads whole numbers in base 16 too
        for sign in "xX":
            bad |= pc.match_substring(column, sign).fill_null(False).to_numpy()
    return found, bad


def _one_by_one(column: "pa.ChunkedArray", kind: str, bad: Array) -> "pa.ChunkedArray":
    """The column as numbers, null where one does not convert, which is noted in `bad`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        return pc.cast(column, kind)
    except (pa.ArrowInvalid, UnicodeDecodeError):
        pass
    for row, value in enumerate(column):
        try:
            pc.cast(value, kind)
        except (pa.ArrowInvalid, UnicodeDecodeError):
            bad[row] = True
    return pc.cast(pc.if_else(pa.array(bad), None, column), kind)


def parse_hex(column: "pa.ChunkedArray") -> tuple["pa.Array", Array]:
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
