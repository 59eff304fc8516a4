"""Criteo display advertising: a click or none, 13 counts and 26 categories, in order of time (Criteo Labs 2014).

The Kaggle file has 45 million rows: it is read in blocks, and its memory does not grow with it. What is stored
is what was published: the counts as integers, the categories as the 32-bit numbers that their hexadecimal text
stands for. Hashing, vocabularies and logarithms are choices of `load`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import IO

from suffice.data.formats import lines, parquet, text, values
from suffice.data.formats.lines import Dialect
from suffice.data.formats.values import Rows
from suffice.data.store import archives
from suffice.data.store.entry import Convert, Entry, Faults, Remote, holding
from suffice.data.store.store import Writer

_NUMERIC = [f"I{i}" for i in range(1, 14)]
_CATEGORICAL = [f"C{i}" for i in range(1, 27)]
_TEXT = {"label": "uint8", **dict.fromkeys(_NUMERIC, "int32"), **dict.fromkeys(_CATEGORICAL, "hex32")}
_STORED = {name: kind.replace("hex32", "uint32") for name, kind in _TEXT.items()}
_COLUMNS = {"labels": "label", "numeric": _NUMERIC, "categorical": _CATEGORICAL, "log1p": _NUMERIC}


def convert(source: Path, writer: Writer, faults: Faults) -> None:
    """`train.txt` of the Kaggle challenge, the archive or a folder that holds it."""
    _convert_text(source, "train.txt", writer, faults)


def convert_sample(source: Path, writer: Writer, faults: Faults) -> None:
    """`dac_sample.txt`, the archive or a folder that holds it, or the compact Parquet file."""
    compact = holding(source, "criteo", "dac_sample_80k_hashed.parquet")
    if compact is None:
        _convert_text(source, "dac_sample.txt", writer, faults)
        return
    _convert_parquet(compact / "dac_sample_80k_hashed.parquet", writer, faults)
    writer.manifest["notes"] = ["categories are 20-bit hashes of the published values; I5 is about 98 % exact"]


def convert_head(source: Path, writer: Writer, faults: Faults) -> None:
    """The compact Parquet file of the first 8,000 rows of the sample as published."""
    compact = holding(source, "criteo", "first_8000_raw.parquet")
    if compact is None:
        raise FileNotFoundError(f"expected first_8000_raw.parquet in {source}, found none")
    _convert_parquet(compact / "first_8000_raw.parquet", writer, faults)


def _convert_text(source: Path, name: str, writer: Writer, faults: Faults) -> None:
    if source.is_file() and not archives.is_archive(source):
        with source.open("rb") as stream:
            _write(_of_text(stream, str(source), faults), _TEXT, str(source), writer, faults)
        return
    for _, member in archives.named(source, (name,)):
        where = f"{member.name} in {source}"
        _write(_of_text(member.stream, where, faults), _TEXT, where, writer, faults)


def _of_text(stream: IO[bytes], where: str, faults: Faults) -> Iterator[Rows]:
    dialect = Dialect("\t")
    return text.rows(lines.blocks(stream, dialect, where), list(_TEXT), dialect, where, faults)


def _convert_parquet(file: Path, writer: Writer, faults: Faults) -> None:
    """Categories as text, or as the numbers that it stands for."""
    texts = parquet.texts(file)
    kinds = {name: kind if name in texts else _STORED[name] for name, kind in _TEXT.items()}
    _write(parquet.rows(file, list(_TEXT)), kinds, str(file), writer, faults)


def _write(source: Iterator[Rows], kinds: dict[str, str], where: str, writer: Writer, faults: Faults) -> None:
    import pyarrow as pa

    count = 0
    with writer.table("rows", pa.schema(list(_STORED.items()))) as append:
        for rows in source:
            rows = values.converted(rows, kinds, where, faults)
            rows = values.required(rows, "label", where, faults, low=0, high=1)
            append(rows.table)
            count += len(rows.numbers)
            writer.progress("read rows", count, 0)
    writer.manifest |= {"parts": {"all": count}, "columns": _COLUMNS, "order": "time", "classes": ["none", "click"]}


def _entry(name: str, title: str, file: str, convert: Convert) -> Entry:
    return Entry(
        name=name,
        title=title,
        kind="table",
        licence="non-commercial, not to be passed on",
        home="https://ailab.criteo.com/ressources/",
        remotes=(Remote(file, None, None),),
        convert=convert,
        defaults={"validation": 1 / 14, "test": 1 / 7},  # of seven days, the last to judge
    )


ENTRIES = (
    _entry("criteo", "45 million ads, clicked or not", "train.txt", convert),
    _entry("criteo-sample", "the first 100,000 of them", "dac_sample.txt", convert_sample),
    _entry("criteo-head", "8,000 rows of the sample as published", "first_8000_raw.parquet", convert_head),
)
