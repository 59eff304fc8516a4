"""Read large delimited text in blocks: rows that are well formed (`lines`), parsed by Arrow.

What comes out is text, null where a field is empty; `values` makes numbers of it. Every row of a file is read or is a
fault: Arrow's count is held to that of the lines.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from suffice.data.formats.tables import lines
from suffice.data.formats.tables.lines import Block, Dialect
from suffice.data.formats.tables.values import Rows
from suffice.data.store.bad_records import BadRecords

if TYPE_CHECKING:
    import pyarrow as pa


def read_rows(
    blocks: Iterable[Block],
    fields: Sequence[str],
    dialect: Dialect,
    where: str,
    bad_records: BadRecords,
    *,
    names: Sequence[str] | None = None,
    missing: Sequence[str] = (),
) -> Iterator[Rows]:
    """The rows of a text, a block at a time.

    Args:
        blocks: of rows, without a header.
        fields: what each row has, in order.
        dialect: how rows are written.
        where: the file, for messages.
        bad_records: told of rows that are not well formed.
        names: of the fields that are wanted, each of which there is once; None: all.
        missing: what means that a value is missing, beside nothing.

    Raises:
        ValueError: for a row that is longer than a block, or, unless bad records are skipped, one that is not well formed.
    """
    names = fields if names is None else names
    places = [fields.index(name) for name in names]
    for block in blocks:
        good, numbers = lines.filter_well_formed(block, dialect, len(fields), where, bad_records)
        if len(numbers):
            table = _parsed(good, len(fields), places, dialect, ["", *missing])
            if len(table) != len(numbers):
                counts = f"expected {len(numbers):,} rows, parsed {len(table):,}"
                raise ValueError(f"lines from {block.line} of {where}: {counts}; save them in another way")
            yield Rows(table.rename_columns(list(names)), numbers)


def _parsed(data: bytes, fields: int, places: list[int], dialect: Dialect, missing: list[str]) -> "pa.Table":
    """Well-formed rows as a table of text, its columns called by their places."""
    import pyarrow as pa
    from pyarrow import csv

    wanted = [str(place) for place in places]
    read = csv.ReadOptions(column_names=[str(place) for place in range(fields)], block_size=len(data) + 1)
    parse = csv.ParseOptions(
        delimiter=dialect.delimiter,
        quote_char=dialect.quote or False,
        newlines_in_values=dialect.multiline,
        ignore_empty_lines=False,
    )
    convert = csv.ConvertOptions(
        include_columns=wanted,
        column_types=dict.fromkeys(wanted, pa.string()),
        null_values=missing,
        strings_can_be_null=True,
        check_utf8=False,
    )
    return csv.read_csv(io.BytesIO(data), read, parse, convert)
