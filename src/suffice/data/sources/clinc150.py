"""CLINC150: short requests to an assistant, with 150 intents, and requests out of their scope (Larson et al. 2019).

The two kinds are two data sets of one source: what is out of scope is no class to learn, but data to be recognized as
unlike the training data. The published parts of the "full" version are kept, validation included.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from suffice.data.formats.tables import parquet
from suffice.data.store.bad_records import BadRecords
from suffice.data.store.entry import CatalogEntry, Remote, find_folder
from suffice.data.store.writer import DatasetWriter
from suffice.storage import reading

_FILE, _COMPACT = "data_full.json", "clinc150.parquet"
_PARTS = {"train": "train", "val": "validation", "test": "test"}
"""Parts as published, and their names in the store."""
_OUT = "oos"
"""Published label of requests out of scope, and the prefix of their parts."""

Request = tuple[str, str]
"""Text and intent."""


def convert(in_scope: bool, source: Path, writer: DatasetWriter, bad_records: BadRecords) -> None:
    """Import the requests in scope, or those out of scope, from the official file or the compact Parquet file.

    Args:
        in_scope: Import the requests with an intent instead of those without.
        source: The file, or a folder that contains it.
        writer: Writer of the data set.
        bad_records: Record of requests without a text, or with an intent that the training part lacks.
    """
    import pyarrow as pa

    compact = find_folder(source, "clinc150", _COMPACT)
    read = _read_json(source) if compact is None else _read_parquet(compact / _COMPACT)
    parts = {part: [request for request in read[part] if (request[1] != _OUT) == in_scope] for part in _PARTS.values()}
    classes = sorted({intent for _, intent in parts["train"]})
    numbers = {intent: label for label, intent in enumerate(classes)}
    counts = dict.fromkeys(parts, 0)
    schema = pa.schema({"text": pa.string(), "label": pa.uint16()})
    with writer.table("rows", schema) as append:
        for part, requests in parts.items():
            rows = list(_checked(requests, numbers, f"{part} of {source}", bad_records))
            counts[part] = len(rows)
            texts, labels = zip(*rows, strict=True) if rows else ((), ())
            append(pa.table({"text": pa.array(texts, pa.string()), "label": pa.array(labels, pa.uint16())}))
    writer.manifest |= {"parts": counts, "classes": classes}


def _checked(
    requests: list[Request], numbers: Mapping[str, int], where: str, bad_records: BadRecords
) -> Iterator[tuple[str, int]]:
    """Yield text and label of each valid request."""
    for row, (text, intent) in enumerate(requests, start=1):
        if not (isinstance(text, str) and text.strip()):
            bad_records.add(f"request {row} in {where}", f"expected a text, got {text!r}")
        elif intent not in numbers:
            bad_records.add(f"request {row} in {where}", f"expected an intent of the training part, got {intent!r}")
        else:
            yield text, numbers[intent]


def _read_json(source: Path) -> dict[str, list[Request]]:
    """Return the requests of each part of the official file, a mapping from parts to lists of [text, intent]."""
    file = source / _FILE if source.is_dir() else source
    if not file.is_file():
        raise FileNotFoundError(f"expected {_FILE} or {_COMPACT} in {source}, found neither")
    content = reading.read_json(file)
    published = [name for part in _PARTS for name in (part, f"{_OUT}_{part}")]
    if not isinstance(content, dict) or not set(published) <= content.keys():
        raise ValueError(f"expected the parts {', '.join(published)} in {file}, got {_describe(content)}")
    for name in published:
        if not (isinstance(content[name], list) and all(map(_is_request, content[name]))):
            raise ValueError(f"expected pairs [text, intent] in {name} of {file}, got others")
    return {
        stored: [(text, intent) for name in (part, f"{_OUT}_{part}") for text, intent in content[name]]
        for part, stored in _PARTS.items()
    }


def _is_request(entry: object) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and all(isinstance(value, str) for value in entry)


def _describe(content: Any) -> str:
    return ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__


def _read_parquet(file: Path) -> dict[str, list[Request]]:
    """Return the requests of each part of the compact file, with the columns text, intent and part."""
    requests: dict[str, list[Request]] = {part: [] for part in _PARTS.values()}
    for rows in parquet.read_rows(file, ["text", "intent", "part"]):
        columns = (rows.table[name].to_pylist() for name in ("text", "intent", "part"))
        for number, text, intent, part in zip(rows.numbers, *columns, strict=True):
            if part not in _PARTS:
                raise ValueError(f"row {number} of {file}: expected a part among {', '.join(_PARTS)}, got {part!r}")
            requests[_PARTS[part]].append((text, intent))
    return requests


def _entry(name: str, title: str, in_scope: bool) -> CatalogEntry:
    return CatalogEntry(
        name=name,
        title=title,
        kind="text",
        license="CC BY 3.0",
        homepage="https://github.com/clinc/oos-eval",
        remotes=(Remote(_FILE, None, f"https://raw.githubusercontent.com/clinc/oos-eval/master/data/{_FILE}"),),
        convert=partial(convert, in_scope),
    )


ENTRIES = (
    _entry("clinc150", "22,500 short requests with 150 intents", True),
    _entry("clinc150-out-of-scope", "1,200 requests with none of them", False),
)
