"""Convert the columns of a table to numbers; a row with an invalid value is a bad record."""

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
"""Maximal number of characters of a value in a message."""

_EXPECTED = {"hex32": "up to 8 hexadecimal digits", "float32": "a finite number"}
"""Descriptions of types in messages; others are described by their names."""
_MISSING_LIKE = {repr(text) for text in ("nan", "na", "n/a", "null", "none", "nil", "?", "-", ".", " ")}
"""Texts that programs write for missing values; they get a hint in the message."""
_NUMBERS = {"float32": r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"}
"""Patterns of numbers in text, by type; the default pattern is a whole number."""
_NOT_HEX = np.ones(256, dtype=bool)
_NOT_HEX[np.frombuffer(b"0123456789abcdefABCDEF", dtype=np.uint8)] = False
_ONES = 0x0101010101010101


@dataclass(frozen=True)
class Rows:
    """Rows of a file.

    Attributes:
        table: The columns; missing values are null.
        numbers: Number of each row in the file, (N,), from 1.
        unit: Unit of the numbers, `line` or `row`.
    """

    table: "pa.Table"
    numbers: Array
    unit: str = "line"

    def keep(self, good: Array) -> "Rows":
        """Return the rows where `good` (N,) bool is true."""
        return self if good.all() else Rows(self.table.filter(good), self.numbers[good], self.unit)

    def with_nulls(self, missing: Sequence[str]) -> "Rows":
        """Return the rows with null in place of the texts that mark missing values."""
        import pyarrow as pa
        import pyarrow.compute as pc

        table = self.table
        for place, name in enumerate(table.column_names if missing else []):
            if pa.types.is_string(table[name].type):
                is_missing = pc.is_in(table[name], pa.array(missing))
                table = table.set_column(place, name, pc.if_else(is_missing, None, table[name]))
        return Rows(table, self.numbers, self.unit)

    def report_bad(
        self, bad: Array, name: str, expected: str, where: str, bad_records: BadRecords, advice: str = ""
    ) -> None:
        """Count a bad record for each row where `bad` (N,) bool is true, because of its value in a column.

        Args:
            bad: Mask of the rows, (N,) bool.
            name: Name of the column.
            expected: Description of valid values.
            where: Name of the file.
            bad_records: Policy for the rows.
            advice: Hint for values that look like a marker of missing values.

        Raises:
            ValueError: Unless bad records are skipped.
        """

        def describe(row: int) -> tuple[str, str]:
            value = format_value(self.table[name][row])
            hint = advice if value.casefold() in _MISSING_LIKE else ""
            return f"{self.unit} {self.numbers[row]} of {where}", f"expected {name} as {expected}, got {value}{hint}"

        bad_records.add_each(np.flatnonzero(bad).tolist(), describe)


def format_value(value: "pa.Scalar") -> str:
    """Return a value as text for a message, shortened."""
    try:
        plain = value.as_py()
    except UnicodeDecodeError:
        plain = value.as_buffer().to_pybytes()
    if plain is None:
        return "none"
    text = repr(plain)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… of {len(text):,} characters"


def convert(rows: Rows, kinds: dict[str, str], where: str, bad_records: BadRecords, advice: str = "") -> Rows:
    """Convert columns to numbers of an Arrow type (`int32`, `float32`, …) or of `hex32`.

    `hex32` is text of up to 8 hexadecimal digits, converted to uint32. A row with a value that does not convert or is
    not finite is a bad record. Missing values stay null, and other columns are unchanged.

    Args:
        rows: The rows.
        kinds: Type of each column to convert, by name.
        where: Name of the file, for messages.
        bad_records: Policy for rows with invalid values.
        advice: Hint for values that look like a marker of missing values.

    Raises:
        ValueError: If a value does not convert, unless bad records are skipped.
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
    """Return the rows with a number in [low, high] in a column; other rows, also with null, are bad records.

    Raises:
        ValueError: If there are other rows, unless bad records are skipped.
    """
    import pyarrow.compute as pc

    column = rows.table[name]
    fits = pc.and_(pc.greater_equal(column, low), pc.less_equal(column, high)).fill_null(False).to_numpy()
    expected = "a number" if high == math.inf else f"a number from {low:g} to {high:g}"
    rows.report_bad(~fits, name, expected, where, bad_records)
    return rows.keep(fits)


def _number(column: "pa.ChunkedArray", kind: str) -> tuple["pa.ChunkedArray", Array]:
    """Return the column as numbers, null where a value does not convert, and the mask of these values."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pa.types.is_string(column.type)
    lenient = kind == "float32" and not text  # numbers are rounded to its precision
    bad = np.zeros(len(column), dtype=bool)
    try:
        numbers = pc.cast(column, kind, safe=not lenient)
    except (pa.ArrowInvalid, UnicodeDecodeError):
        if text:  # finds most invalid values at once
            bad = ~pc.match_substring_regex(column, _NUMBERS.get(kind, "^-?[0-9]+$")).fill_null(True).to_numpy()
        numbers = _cast_each(pc.if_else(pa.array(bad), None, column), kind, bad)
    if kind == "float32":
        bad |= ~pc.is_finite(numbers).fill_null(True).to_numpy()
    elif text:  # Arrow also accepts hexadecimal whole numbers
        for sign in "xX":
            bad |= pc.match_substring(column, sign).fill_null(False).to_numpy()
    return numbers, bad


def _cast_each(column: "pa.ChunkedArray", kind: str, bad: Array) -> "pa.ChunkedArray":
    """Return the column as numbers, null where a value does not convert; these are added to `bad`."""
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
    """Return text of up to 8 hexadecimal digits as uint32, null where empty or invalid, and the mask of the invalid."""
    import pyarrow as pa

    column = column.combine_chunks()
    _, offsets, characters = column.buffers()
    start = np.frombuffer(offsets, dtype=np.int32)[column.offset : column.offset + len(column) + 1]
    data = np.frombuffer(characters or b"", dtype=np.uint8)[start[0] : start[-1]]
    length = np.diff(start)
    present, bad = length > 0, length > 8
    if bad.any():
        data, length = data[np.repeat(~bad, length)], np.where(bad, 0, length)
    if not (present == (length == 8)).all():  # pad shorter ones with leading zeros
        padded = np.full((np.count_nonzero(present), 8), ord("0"), dtype=np.uint8)
        padded[np.arange(8) >= 8 - length[present, None]] = data
        data = padded.reshape(-1)
    value = np.zeros(len(column), dtype=np.uint32)
    value[present] = _eight_digits(data)
    not_hex = _NOT_HEX[data]
    if not_hex.any():
        bad[np.flatnonzero(present)[not_hex.reshape(-1, 8).any(axis=1)]] = True
    return pa.array(value, mask=bad | ~present), bad


def _eight_digits(data: Array) -> Array:
    """Convert (8 N,) uint8 hexadecimal digits to (N,) uint32, all 8 digits at once in a 64-bit word."""
    words = np.ascontiguousarray(data).view("<u8")
    digits = (words & np.uint64(0x0F0F0F0F0F0F0F0F)) + np.uint64(9) * (words >> np.uint64(6) & np.uint64(_ONES))
    for shift, mask in ((4, 0x00FF00FF00FF00FF), (8, 0x0000FFFF0000FFFF), (16, 0xFFFFFFFF)):
        digits = (digits << np.uint64(shift) | digits >> np.uint64(2 * shift)) & np.uint64(mask)
    return digits.astype(np.uint32)
