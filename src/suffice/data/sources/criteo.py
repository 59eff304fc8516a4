"""Criteo display advertising: clicks, 13 counts and 26 categories, ordered by time (Criteo Labs 2014).

The Kaggle file has 45 million rows; it is read in blocks of bounded memory. The published values are stored: counts as
integers, categories as the 32-bit numbers of their hexadecimal text. Hashing, vocabularies and logarithms are options
of `load`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from suffice.data.formats.tables import lines, parquet, text, values
from suffice.data.formats.tables.lines import Dialect
from suffice.data.formats.tables.values import Rows
from suffice.data.store import archives
from suffice.data.store.bad_records import BadRecords
from suffice.data.store.entry import CatalogEntry, Convert, Remote, find_folder
from suffice.data.store.writer import DatasetWriter

_NUMERIC = [f"I{i}" for i in range(1, 14)]
_CATEGORICAL = [f"C{i}" for i in range(1, 27)]
_TEXT = {"label": "uint8", **dict.fromkeys(_NUMERIC, "int32"), **dict.fromkeys(_CATEGORICAL, "hex32")}
_STORED = {name: kind.replace("hex32", "uint32") for name, kind in _TEXT.items()}
_COLUMNS = {"labels": "label", "numeric": _NUMERIC, "categorical": _CATEGORICAL, "log1p": _NUMERIC}


def convert(source: Path, writer: DatasetWriter, bad_records: BadRecords) -> None:
    """Import `train.txt` of the Kaggle challenge, or an archive or folder that contains it."""
    _convert_text(source, "train.txt", writer, bad_records)


def convert_sample(source: Path, writer: DatasetWriter, bad_records: BadRecords) -> None:
    """Import `dac_sample.txt`, an archive or folder that contains it, or the compact Parquet file."""
    compact = find_folder(source, "criteo", "dac_sample_80k_hashed.parquet")
    if compact is None:
        _convert_text(source, "dac_sample.txt", writer, bad_records)
        return
    _convert_parquet(compact / "dac_sample_80k_hashed.parquet", writer, bad_records)
    writer.manifest["notes"] = ["categories are 20-bit hashes of the published values; I5 is about 98 % exact"]


def convert_head(source: Path, writer: DatasetWriter, bad_records: BadRecords) -> None:
    """Import the compact Parquet file of the first 8,000 published rows of the sample."""
    compact = find_folder(source, "criteo", "first_8000_raw.parquet")
    if compact is None:
        raise FileNotFoundError(f"expected first_8000_raw.parquet in {source}, found none")
    _convert_parquet(compact / "first_8000_raw.parquet", writer, bad_records)


def _convert_text(source: Path, name: str, writer: DatasetWriter, bad_records: BadRecords) -> None:
    if source.is_file() and not archives.is_archive(source):
        with source.open("rb") as stream:
            _write(_read_text(stream, str(source), bad_records), _TEXT, str(source), writer, bad_records)
        return
    for _, member in archives.find_members(source, (name,)):
        where = f"{member.name} in {source}"
        _write(_read_text(member.stream, where, bad_records), _TEXT, where, writer, bad_records)


def _read_text(stream: IO[bytes], where: str, bad_records: BadRecords) -> Iterator[Rows]:
    dialect = Dialect("\t")
    return text.read_rows(lines.read_blocks(stream, dialect, where), list(_TEXT), dialect, where, bad_records)


def _convert_parquet(file: Path, writer: DatasetWriter, bad_records: BadRecords) -> None:
    """Import a Parquet file whose categories are hexadecimal text or the corresponding numbers."""
    texts = parquet.text_columns(file)
    kinds = {name: kind if name in texts else _STORED[name] for name, kind in _TEXT.items()}
    _write(parquet.read_rows(file, list(_TEXT)), kinds, str(file), writer, bad_records)


def _write(
    source: Iterator[Rows], kinds: dict[str, str], where: str, writer: DatasetWriter, bad_records: BadRecords
) -> None:
    import pyarrow as pa

    count = 0
    with writer.table("rows", pa.schema(list(_STORED.items()))) as append:
        for rows in source:
            rows = values.convert(rows, kinds, where, bad_records)
            rows = values.require_numbers(rows, "label", where, bad_records, low=0, high=1)
            append(rows.table)
            count += len(rows.numbers)
            writer.progress("read rows", count, 0)
    writer.manifest |= {"parts": {"all": count}, "columns": _COLUMNS, "order": "time", "classes": ["none", "click"]}


def _entry(name: str, title: str, file: str, convert: Convert) -> CatalogEntry:
    return CatalogEntry(
        name=name,
        title=title,
        kind="table",
        license="non-commercial, not to be passed on",
        homepage="https://ailab.criteo.com/ressources/",
        remotes=(Remote(file, None, None),),
        convert=convert,
        # of seven days, the last for test and the half day before it for validation
        defaults={"validation": 1 / 14, "test": 1 / 7},
    )


ENTRIES = (
    _entry("criteo", "45 million ads, clicked or not", "train.txt", convert),
    _entry("criteo-sample", "the first 100,000 of them", "dac_sample.txt", convert_sample),
    _entry("criteo-head", "8,000 rows of the sample as published", "first_8000_raw.parquet", convert_head),
)
