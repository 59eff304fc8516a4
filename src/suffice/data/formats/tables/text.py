"""Read large delimited text in blocks: well-formed rows (`lines`), parsed by Arrow.

The columns are text, null where a field is empty; `values` converts them to numbers. Every row of a file is read
or is a bad record: Arrow's number of rows must equal the number of lines.
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
    """Yield the rows of a text, one block at a time.

    Args:
        blocks: Blocks of rows, without the header.
        fields: Names of the fields of a row, in order.
        dialect: Syntax of the text.
        where: Name of the file, for messages.
        bad_records: Policy for malformed rows.
        names: Names of the fields to read, each of which occurs once; None: all.
        missing: Texts that mark missing values, besides the empty one.

    Raises:
        ValueError: If a row is longer than a block; unless bad records are skipped, also if a row is malformed.
    """
    names = fields if names is None else names
    places = [fields.index(name) for name in names]
    for block in blocks:
        good, numbers = lines.filter_well_formed(block, dialect, len(fields), where, bad_records)
        if len(numbers):
            table = _parse(good, len(fields), places, dialect, ["", *missing])
            if len(table) != len(numbers):
                counts = f"expected {len(numbers):,} rows, parsed {len(table):,}"
                raise ValueError(f"lines from {block.line} of {where}: {counts}; export the file in another format")
            yield Rows(table.rename_columns(list(names)), numbers)


def _parse(data: bytes, fields: int, places: list[int], dialect: Dialect, missing: list[str]) -> "pa.Table":
    """Parse well-formed rows to a table of text, whose columns are named by their positions."""
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
