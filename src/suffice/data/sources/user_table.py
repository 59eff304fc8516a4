"""A user's own table: Parquet or delimited text with a header, described by a schema.

Classes are numbered in sorted order, categories in order of first appearance; category numbers have no meaning until
`load` learns a vocabulary from the training rows.
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
"""Maximal number of distinct labels; more of them are probably a regression target."""

_ADVICE = "; list the texts that mark missing values as missing = [...] in the schema"
_NOT_CLASSES = {"nan", "NaN", "NAN", "inf", "-inf", "+inf", "Infinity", "-Infinity"}
"""Texts that programs write for undefined or infinite numbers."""


def convert(schema: Schema, source: Path, writer: DatasetWriter, bad_records: BadRecords) -> None:
    """Write the columns of a table that the schema lists.

    Raises:
        ValueError: If a column is missing; unless bad records are skipped, also if a row is malformed or has no label.
    """
    import pyarrow as pa

    if not source.is_file():
        raise ValueError(f"expected a Parquet file or delimited text, got {source}, which is not a file")
    encoders = {name: _Encoder() for name in schema.categorical}
    if not schema.regression:
        encoders[schema.labels] = _Encoder(_classes(schema, source, bad_records))
        writer.manifest["classes"] = list(encoders[schema.labels].codes)
        bad_records = BadRecords(skip=True)  # already counted by the first pass
    kinds = {name: "uint32" if name in encoders else "float32" for name in schema.columns}
    written = 0
    with writer.table("rows", pa.schema(list(kinds.items()))) as append:
        for rows in _valid_rows(schema, source, bad_records):
            columns = {n: encoders[n](rows.table[n]) if n in encoders else rows.table[n] for n in kinds}
            append(pa.table(columns))
            written += len(rows.numbers)
            writer.progress("read rows", written, 0)
    if not schema.regression and len(encoders[schema.labels].codes) != len(writer.manifest["classes"]):
        raise ValueError(f"expected {source} to stay unchanged during the import, got other labels in the second pass")
    writer.manifest["categories"] = {}
    for index, name in enumerate(schema.categorical):
        file = writer.manifest["categories"][name] = _categories_file(index, name)
        with writer.table(file, pa.schema([("value", "string")])) as append:
            append(pa.table({"value": pa.array(map(str, encoders[name].codes), pa.string())}))
    writer.manifest |= {"parts": {"all": written}, "columns": schema.roles()}
    if schema.order:
        writer.manifest["order"] = schema.order


class _Encoder:
    """Number the values of a column in order of first appearance."""

    def __init__(self, known: list[Any] | None = None) -> None:
        self.codes: dict[object, int] = {value: code for code, value in enumerate(known or [])}

    def __call__(self, column: "pa.ChunkedArray") -> "pa.Array":
        """Return the numbers (N,) uint32 of values, null where a value is null."""
        import pyarrow as pa

        encoded = column.combine_chunks().dictionary_encode()
        codes = [self.codes.setdefault(value, len(self.codes)) for value in encoded.dictionary.to_pylist()]
        return pa.array(codes, pa.uint32()).take(encoded.indices)


def _categories_file(index: int, name: str) -> str:
    """Return the file name of a column's categories; it contains the column's name if this is safe on any system."""
    return f"categories-{name}" if re.fullmatch("[a-z0-9_]{1,64}", name) else f"categories-column-{index}"


def _classes(schema: Schema, source: Path, bad_records: BadRecords) -> list[Any]:
    """Return the distinct labels, sorted; by value if all of them are numbers."""
    classes: set[Any] = set()
    for rows in _valid_rows(schema, source, bad_records):
        classes |= set(rows.table[schema.labels].unique().to_pylist())
        if len(classes) > MOST_CLASSES:
            raise ValueError(
                f"expected at most {MOST_CLASSES:,} classes as {schema.labels!r}, got more in {source}; for a "
                "numeric target set regression = true in the schema"
            )
    by_text = {value: str(value).strip() for value in classes}
    try:
        keys: dict[Any, Any] = {value: Decimal(label) for value, label in by_text.items()}
    except InvalidOperation:
        keys = by_text
    ordered = sorted(classes, key=lambda value: (keys[value], str(value)))
    for label, following in itertools.pairwise(ordered):
        if keys[label] == keys[following]:
            where, both = (
                f"{schema.labels!r} in {source}",
                " and ".join(repr(str(name)[:60]) for name in (label, following)),
            )
            raise ValueError(f"expected one spelling of each class in {where}, got {both}")
    return ordered


def _valid_rows(schema: Schema, source: Path, bad_records: BadRecords) -> Iterator[Rows]:
    """Yield the rows that have a label and valid numbers; the others are bad records."""
    where = str(source)
    kinds = dict.fromkeys(schema.number_columns, "float32")
    for rows in _read_rows(schema, source, bad_records):
        rows = _drop_unlabeled(rows, schema.labels, where, bad_records)
        for name in schema.class_columns:
            rows = _drop_nonfinite(rows, name, where, bad_records)
        yield values.convert(rows, kinds, where, bad_records, _ADVICE)


def _drop_unlabeled(rows: Rows, label: str, where: str, bad_records: BadRecords) -> Rows:
    """Return the rows that have a label."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = rows.table[label]
    bad = column.is_null().to_numpy()
    if pa.types.is_string(column.type):
        bad = bad | pc.is_in(column, pa.array(sorted(_NOT_CLASSES))).to_numpy()
    rows.report_bad(bad, label, "a value", where, bad_records)
    return rows.keep(~bad)


def _drop_nonfinite(rows: Rows, name: str, where: str, bad_records: BadRecords) -> Rows:
    """Return the rows whose class or category is not an infinite or undefined number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_floating(rows.table[name].type):
        return rows
    good = pc.is_finite(rows.table[name]).fill_null(True).to_numpy()
    rows.report_bad(~good, name, "a finite number", where, bad_records)
    return rows.keep(good)


def _read_rows(schema: Schema, source: Path, bad_records: BadRecords) -> Iterator[Rows]:
    """Yield the columns of a file, one block of rows at a time."""
    if parquet.is_parquet(source):
        for rows in parquet.read_rows(source, schema.columns, classes=schema.class_columns):
            yield rows.with_nulls(schema.missing)
        return
    with encodings.open_text(source, schema.encoding) as stream:
        dialect, where = schema.dialect, str(source)
        head, blocks = lines.split_first_row(lines.read_blocks(stream, dialect, where), dialect)
        fields = _header_fields(head.data, schema, source)
        yield from text.read_rows(
            blocks, fields, dialect, where, bad_records, names=schema.columns, missing=schema.missing
        )


def _header_fields(head: bytes, schema: Schema, source: Path) -> list[str]:
    """Return the column names of a header, after checking that the schema's columns are among them."""
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
