"""The users' own tables, Parquet or delimited text with a header, as a schema says.

Classes become numbers in sorted order, categories in order of first appearance; these mean nothing until `load`
learns a vocabulary from the training rows.
"""

import csv
import itertools
import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suffice.data.formats.tables import encodings, headers, lines, parquet, text, values
from suffice.data.formats.tables.schema import Schema
from suffice.data.formats.tables.values import Rows
from suffice.data.store.bad_records import BadRecords
from suffice.data.store.writer import DatasetWriter

if TYPE_CHECKING:
    import pyarrow as pa

MOST_CLASSES = 1 << 16
"""More distinct labels than these are no classes."""

_ADVICE = "; values that mean missing ones are stated by missing = [...] in the schema"
_NO_CLASS = {"nan", "NaN", "NAN", "inf", "-inf", "+inf", "Infinity", "-Infinity"}
"""Text of numbers that are none, as programs write them."""


def convert(schema: Schema, source: Path, writer: DatasetWriter, bad_records: BadRecords) -> None:
    """Write the columns of a table that a schema names.

    Raises:
        ValueError: for a column that is missing, a row that is malformed or without a label, or no rows.
    """
    import pyarrow as pa

    if not source.is_file():
        raise ValueError(f"expected a Parquet file or delimited text, got {source}, which is no file")
    codes = {name: _Coder() for name in schema.categorical}
    if not schema.regression:
        codes[schema.labels] = _Coder(_classes(schema, source, bad_records))
        writer.manifest["classes"] = list(codes[schema.labels].codes)
        bad_records = BadRecords(skip=True)  # they are noted
    kinds = {name: "uint32" if name in codes else "float32" for name in schema.columns}
    written = 0
    with writer.table("rows", pa.schema(list(kinds.items()))) as append:
        for rows in _sound(schema, source, bad_records):
            columns = {n: codes[n](rows.table[n]) if n in codes else rows.table[n] for n in kinds}
            append(pa.table(columns))
            written += len(rows.numbers)
            writer.progress("read rows", written, 0)
    if not schema.regression and len(codes[schema.labels].codes) != len(writer.manifest["classes"]):
        raise ValueError(f"expected {source} to stay as it is while it is read, got other labels the second time")
    writer.manifest["categories"] = {}
    for place, name in enumerate(schema.categorical):
        file = writer.manifest["categories"][name] = _file_of(place, name)
        with writer.table(file, pa.schema([("value", "string")])) as append:
            append(pa.table({"value": pa.array(map(str, codes[name].codes), pa.string())}))
    writer.manifest |= {"parts": {"all": written}, "columns": schema.roles()}
    if schema.order:
        writer.manifest["order"] = schema.order


class _Coder:
    """Gives values numbers, in order of first appearance."""

    def __init__(self, known: list[Any] | None = None) -> None:
        self.codes: dict[object, int] = {value: code for code, value in enumerate(known or [])}

    def __call__(self, column: "pa.ChunkedArray") -> "pa.Array":
        """Numbers (N,) uint32, null where the value is."""
        import pyarrow as pa

        encoded = column.combine_chunks().dictionary_encode()
        known = [self.codes.setdefault(value, len(self.codes)) for value in encoded.dictionary.to_pylist()]
        return pa.array(known, pa.uint32()).take(encoded.indices)


def _file_of(place: int, name: str) -> str:
    """The file of a column's categories: after its name where that is a file's too, on any system."""
    return f"categories-{name}" if re.fullmatch("[a-z0-9_]{1,64}", name) else f"categories-column-{place}"


def _classes(schema: Schema, source: Path, bad_records: BadRecords) -> list[Any]:
    """The distinct labels, sorted: as numbers if all are numbers."""
    found: set[Any] = set()
    for rows in _sound(schema, source, bad_records):
        found |= set(rows.table[schema.labels].unique().to_pylist())
        if len(found) > MOST_CLASSES:
            raise ValueError(
                f"expected at most {MOST_CLASSES:,} classes as {schema.labels!r}, got more in {source}; numbers to be "
                "predicted need regression = true in the schema"
            )
    by_text = {value: str(value).strip() for value in found}
    try:
        keys: dict[Any, Any] = {value: Decimal(written) for value, written in by_text.items()}
    except InvalidOperation:
        keys = by_text
    ordered = sorted(found, key=lambda value: (keys[value], str(value)))
    for one, other in itertools.pairwise(ordered):
        if keys[one] == keys[other]:
            where, both = f"{schema.labels!r} in {source}", " and ".join(repr(str(name)[:60]) for name in (one, other))
            raise ValueError(f"expected one way to write each class as {where}, got {both}")
    return ordered


def _sound(schema: Schema, source: Path, bad_records: BadRecords) -> Iterator[Rows]:
    """The rows with a label, whose numbers are numbers; the others are bad_records."""
    where = str(source)
    kinds = dict.fromkeys(schema.numbers, "float32")
    for rows in _rows(schema, source, bad_records):
        rows = _labeled(rows, schema.labels, where, bad_records)
        for name in schema.named:
            rows = _finite(rows, name, where, bad_records)
        yield values.convert(rows, kinds, where, bad_records, _ADVICE)


def _labeled(rows: Rows, label: str, where: str, bad_records: BadRecords) -> Rows:
    import pyarrow as pa
    import pyarrow.compute as pc

    column = rows.table[label]
    bad = column.is_null().to_numpy()
    if pa.types.is_string(column.type):
        bad = bad | pc.is_in(column, pa.array(sorted(_NO_CLASS))).to_numpy()
    rows.report_bad(bad, label, "a value", where, bad_records)
    return rows.keep(~bad)


def _finite(rows: Rows, name: str, where: str, bad_records: BadRecords) -> Rows:
    """The rows whose value in a column of names is not a number that is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_floating(rows.table[name].type):
        return rows
    good = pc.is_finite(rows.table[name]).fill_null(True).to_numpy()
    rows.report_bad(~good, name, "a finite number", where, bad_records)
    return rows.keep(good)


def _rows(schema: Schema, source: Path, bad_records: BadRecords) -> Iterator[Rows]:
    """The columns of a file, a block of rows at a time."""
    if parquet.is_parquet(source):
        for rows in parquet.read_rows(source, schema.columns, classes=schema.named):
            yield rows.with_nulls(schema.missing)
        return
    with encodings.open_text(source, schema.encoding) as stream:
        dialect, where = schema.dialect, str(source)
        head, blocks = lines.split_first_row(lines.read_blocks(stream, dialect, where), dialect)
        fields = _fields(head.data, schema, source)
        yield from text.read_rows(
            blocks, fields, dialect, where, bad_records, names=schema.columns, missing=schema.missing
        )


def _fields(head: bytes, schema: Schema, source: Path) -> list[str]:
    """The names in a header."""
    if not head:
        raise ValueError(f"expected a header, got {source}, which is empty")
    if b"\0" in head:
        raise ValueError(
            f"expected a header, got null bytes in {source}; state the file's encoding in the schema, such as "
            "encoding = 'utf-16-le'"
        )
    try:
        (names,) = csv.reader(
            [head.decode()],
            delimiter=schema.delimiter,
            quotechar=schema.quote or None,
            quoting=csv.QUOTE_MINIMAL if schema.quote else csv.QUOTE_NONE,
            strict=True,
        )
    except UnicodeDecodeError as error:
        raise ValueError(
            f"expected a header in UTF-8, got {source}: {error}; state the file's encoding in the schema, such as "
            "encoding = 'latin-1'"
        ) from error
    except csv.Error as error:
        raise ValueError(f"expected a header at the beginning of {source}, got a malformed one: {error}") from error
    headers.check(names, schema.columns, str(source))
    return names
