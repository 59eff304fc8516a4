"""Read columns of Parquet files, after checking that each occurs once and contains numbers or text."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from suffice.data.formats.tables import headers
from suffice.data.formats.tables.values import Rows

if TYPE_CHECKING:
    import pyarrow as pa


def is_parquet(file: Path) -> bool:
    """Return whether a file begins like a Parquet file (encrypted ones included)."""
    with file.open("rb") as stream:
        return stream.read(4) in (b"PAR1", b"PARE")


def text_columns(file: Path) -> set[str]:
    """Return the names of the columns that contain text."""
    with open_parquet(file) as parquet:
        return {field.name for field in parquet.schema_arrow if _is_text(_inner(field.type))}


def read_rows(file: Path, names: Sequence[str], *, classes: Sequence[str] = ()) -> Iterator[Rows]:
    """Yield the columns of a file, one block of rows at a time.

    Integers, decimals, floats, booleans and text are read; dictionary-encoded columns are decoded.

    Args:
        file: Path of the Parquet file.
        names: Names of the columns.
        classes: Names of the columns whose values are classes or categories.

    Raises:
        ValueError: If a column is missing, occurs twice or has another type, or the file is damaged.
    """
    with open_parquet(file) as parquet:
        schema = parquet.schema_arrow
        headers.check(schema.names, names, str(file))
        _check_kinds(schema, names, classes, file)
        done = 0
        for batch in parquet.iter_batches(columns=list(names)):
            yield Rows(_plain(batch, names), np.arange(done + 1, done + 1 + len(batch)), "row")
            done += len(batch)
        if done != parquet.metadata.num_rows:
            raise ValueError(f"expected {parquet.metadata.num_rows:,} rows in {file}, found {done:,}; it is damaged")


@contextmanager
def open_parquet(file: Path) -> Iterator[Any]:
    """Open a Parquet file as a `ParquetFile`; every error of a damaged file becomes a ValueError.

    Raises:
        ValueError: If the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            yield parquet
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise ValueError(f"expected a whole Parquet file, got a truncated or damaged {file}: {error}") from error


def _check_kinds(schema: "pa.Schema", names: Sequence[str], classes: Sequence[str], file: Path) -> None:
    """Raise a ValueError for a column of a type that is not supported."""
    from pyarrow import types

    for name in names:
        kind = schema.field(name).type
        inner = _inner(kind)
        plain = (types.is_null, types.is_boolean, types.is_integer, types.is_floating, _is_text)
        readable = any(test(inner) for test in plain)
        if name in classes and not readable:
            raise ValueError(f"expected whole numbers or text in the column {name!r} of {file}, got {kind}; convert it")
        if not (readable or types.is_decimal(inner)):
            raise ValueError(f"expected numbers or text in the column {name!r} of {file}, got {kind}; convert it")


def _inner(kind: Any) -> Any:
    """Return the type of a dictionary's values, or the type itself."""
    from pyarrow import types

    return kind.value_type if types.is_dictionary(kind) else kind


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _plain(batch: "pa.RecordBatch", names: Sequence[str]) -> "pa.Table":
    """Return the columns as a table, with dictionaries decoded and all text of one type."""
    import pyarrow as pa

    columns = {}
    for name in names:
        column = batch.column(name)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if _is_text(column.type) or pa.types.is_null(column.type):
            column = column.cast(pa.string())
        columns[name] = column
    return pa.table(columns)
