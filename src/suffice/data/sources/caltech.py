"""Caltech-256: 30,607 photographs of 256 classes of objects and one class of clutter (Griffin, Holub, Perona 2007)."""

import re
from collections.abc import Iterator
from pathlib import Path

from suffice.data.formats.images.packing import Item, pack
from suffice.data.store import archives
from suffice.data.store.bad_records import BadRecords
from suffice.data.store.entry import CatalogEntry, Remote
from suffice.data.store.writer import DatasetWriter

_IMAGE = re.compile(r"(?:.*/)?(\d{3})\.([^/]+)/\d{3}_\d{4}\.jpg")
"""Paths of the images; the archive also has other files and copies in nested folders."""
_LARGEST = 64 << 20
_COUNT = 30_607


def convert(source: Path, writer: DatasetWriter, bad_records: BadRecords) -> None:
    """Import the official tar, or its unpacked folder."""
    classes: dict[int, str] = {}

    def images() -> Iterator[Item]:
        for member in archives.members(source):
            match = _IMAGE.fullmatch(member.name)
            if match:
                label = int(match[1]) - 1
                if classes.setdefault(label, match[2]) != match[2]:
                    raise ValueError(f"expected one class {match[1]} in {source}, got {classes[label]} and {match[2]}")
                yield member.name, label, member.read(_LARGEST)

    pack(writer, "all", images(), str(source), bad_records, total=_COUNT)
    if sorted(classes) != list(range(len(classes))):
        raise ValueError(f"expected classes 1 to {max(classes) + 1}, got {len(classes)} of them in {source}")
    writer.manifest["classes"] = [classes[label] for label in sorted(classes)]


ENTRIES = (
    CatalogEntry(
        name="caltech256",
        title="257-class photographs",
        kind="encoded",
        license="CC BY 4.0",
        homepage="https://data.caltech.edu/records/nyy15-4j048",
        remotes=(
            Remote(
                "256_ObjectCategories.tar",
                "md5:67b4f42ca05d46448c6bb8ecd2220f6d",
                "https://data.caltech.edu/records/nyy15-4j048/files/256_ObjectCategories.tar",
            ),
        ),
        convert=convert,
        defaults={"validation": 0.1, "test": 0.2},
    ),
)
