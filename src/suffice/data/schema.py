"""The users' own tables: Parquet or CSV with a header, and a small file that says what the columns are for.

    labels = "clicked"              # classes, of any type; or numbers with regression = true
    numeric = ["age", "price"]
    categorical = ["city", "device"]
    log1p = ["price"]               # of the numeric ones
    regression = false
    order = "time"                  # rows are in order of time: split by it, not at random

Classes become numbers in sorted order, categories in order of first appearance; these mean nothing until `load`
learns a vocabulary from the training rows.
"""

import csv as python_csv
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from suffice import reading
from suffice.data import text
from suffice.data.entry import Faults
from suffice.data.store import Writer

if TYPE_CHECKING:
    import pyarrow as pa

_KEYS = {"labels": str, "numeric": list, "categorical": list, "log1p": list, "regression": bool, "order": str}


def read_schema(file: Path) -> dict[str, Any]:
    """A schema, checked.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: for anything that it should not say.
    """
    try:
        schema = tomllib.loads(reading.read_file(file).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"expected a schema in TOML, got {file}: {error}") from error
    for key, value in schema.items():
        if key not in _KEYS or not isinstance(value, _KEYS[key]):
            known = ", ".join(f"{k} ({kind.__name__})" for k, kind in _KEYS.items())
            raise ValueError(f"expected {known}, got {key} = {value!r} in {file}")
    if "labels" not in schema or not (schema.get("numeric") or schema.get("categorical")):
        raise ValueError(f"expected labels, and numeric or categorical columns in {file}, got {', '.join(schema)}")
    if schema.get("order", "time") != "time" or set(schema.get("log1p", [])) - set(schema.get("numeric", [])):
        raise ValueError(f"expected order = 'time' or none, and log1p columns among the numeric ones, in {file}")
    return schema


def convert(schema: dict[str, Any], source: Path, writer: Writer, faults: Faults) -> None:
    """Write the columns of a Parquet or CSV file that a schema names."""
    import pyarrow as pa

    label, regression = schema["labels"], schema.get("regression", False)
    numbers = dict.fromkeys(schema.get("numeric", []), "float32") | ({label: "float32"} if regression else {})
    codes = {name: _Coder() for name in schema.get("categorical", [])}
    if not regression:
        codes[label] = _Coder(_classes(source, label))
        writer.manifest["classes"] = list(codes[label].codes)
    fields = pa.schema([*numbers.items(), *dict.fromkeys(codes, "uint32").items()])
    read, written = 0, 0
    with writer.table("rows", fields) as append:
        for table in _tables(source, fields.names, faults):
            rows = text.Rows(table, np.arange(read + 1, read + len(table) + 1), "row")
            rows = _labelled(rows, label, source, faults)
            rows = text.converted(rows, numbers, str(source), faults)
            append(pa.table({n: codes[n](rows.table[n]) if n in codes else rows.table[n] for n in fields.names}))
            read, written = read + len(table), written + len(rows.lines)
            writer.progress("read rows", read, 0)
    values = {name: pa.array(map(str, coder.codes), pa.string()) for name, coder in codes.items() if name != label}
    for name, column in values.items():
        with writer.table(f"categories-{name}", pa.schema([("value", "string")])) as append:
            append(pa.table({"value": column}))
    writer.manifest |= {"parts": {"all": written}, "columns": {k: v for k, v in schema.items() if k != "order"}}
    if "order" in schema:
        writer.manifest["order"] = schema["order"]


class _Coder:
    """Gives values numbers, in order of first appearance."""

    def __init__(self, values: Iterable[object] = ()) -> None:
        self.codes: dict[object, int] = {value: code for code, value in enumerate(values)}

    def __call__(self, column: "pa.ChunkedArray") -> "pa.Array":
        """Numbers (N,) uint32, null where the value is."""
        import pyarrow as pa

        encoded = column.combine_chunks().dictionary_encode()
        known = [self.codes.setdefault(value, len(self.codes)) for value in encoded.dictionary.to_pylist()]
        return pa.array(known, pa.uint32()).take(encoded.indices)


def _classes(source: Path, label: str) -> list[object]:
    """The distinct labels, sorted: as numbers if all are integers."""
    found: set[object] = set()
    for table in _tables(source, [label], Faults(skip=True)):
        found |= set(table[label].unique().to_pylist())
    found.discard(None)
    try:
        return sorted(found, key=lambda value: int(str(value)))
    except ValueError:
        return sorted(found, key=str)


def _labelled(rows: text.Rows, label: str, source: Path, faults: Faults) -> text.Rows:
    missing = rows.table[label].is_null().to_numpy()
    for index in np.flatnonzero(missing):
        faults.add(f"row {rows.lines[index]} of {source}", f"expected a value of {label}, got none")
    return rows.keep(~missing) if missing.any() else rows


def _tables(source: Path, names: list[str], faults: Faults) -> Iterator["pa.Table"]:
    """The columns of a file, a block of rows at a time; those of CSV as text, null where empty."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if source.suffix in (".parquet", ".pq"):
        with pq.ParquetFile(source) as file:
            _check_columns(file.schema_arrow.names, names, source)
            for batch in file.iter_batches(columns=names):
                yield pa.Table.from_batches([batch]).select(names)
        return
    yield from _csv_tables(source, names, faults)


def _csv_tables(source: Path, names: list[str], faults: Faults) -> Iterator["pa.Table"]:
    import pyarrow as pa
    from pyarrow import csv

    with source.open(newline="") as stream:
        _check_columns(next(python_csv.reader(stream), []), names, source)

    malformed: list[csv.InvalidRow] = []

    def note(row: csv.InvalidRow) -> str:  # Arrow does not pass on what this raises
        malformed.append(row)
        return "skip"

    convert = csv.ConvertOptions(
        include_columns=names,
        column_types=dict.fromkeys(names, pa.string()),
        null_values=[""],
        strings_can_be_null=True,
    )
    parse = csv.ParseOptions(invalid_row_handler=note)
    with csv.open_csv(source, csv.ReadOptions(block_size=text.BLOCK), parse, convert) as reader:
        for batch in reader:
            yield pa.Table.from_batches([batch])
            _report(malformed, source, faults)
    _report(malformed, source, faults)


def _report(malformed: list[Any], source: Path, faults: Faults) -> None:
    """Rows with another number of fields, which are then forgotten."""
    for row in malformed:
        where = f"a row of {source} that begins {row.text[:40]!r}"
        faults.add(where, f"expected {row.expected_columns} fields, got {row.actual_columns}")
    malformed.clear()


def _check_columns(found: list[str], names: list[str], source: Path) -> None:
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"expected the columns {', '.join(names)}, found no {', '.join(missing)} in {source}")
