"""Description of a data set before it is imported: its origin, its license and the function that converts it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from suffice.data.store.bad_records import BadRecords
from suffice.data.store.writer import DatasetWriter


@dataclass(frozen=True)
class Remote:
    """One file of the official distribution.

    Attributes:
        file: File name.
        checksum: `sha256:…` or `md5:…`; None if no trusted one is known (the computed hash is then recorded).
        url: Download address; None if the terms must be accepted before the download.
    """

    file: str
    checksum: str | None
    url: str | None


Convert = Callable[[Path, DatasetWriter, BadRecords], None]
"""`convert(source, writer, bad_records)` reads a source and writes the data set.

The source is an official file, a folder that contains it or its unpacked contents, or the compact layout. A
ValueError or FileNotFoundError names what was expected.
"""


@dataclass(frozen=True)
class CatalogEntry:
    """One data set of the catalog.

    Attributes:
        name: Name of the data set, as passed to `load`, and of its folder.
        title: Short description.
        kind: `images` (arrays), `encoded` (images decoded on access), `table` or `text`.
        license: Short description of the license.
        homepage: Page that describes the data set and its terms.
        remotes: Official files.
        convert: Function that reads them.
        defaults: Default `validation` and `test` of `load`, a count or a fraction each.
    """

    name: str
    title: str
    kind: str
    license: str
    homepage: str
    remotes: tuple[Remote, ...]
    convert: Convert
    defaults: dict[str, Any] = field(default_factory=dict)

    @property
    def downloadable(self) -> bool:
        """Return whether all files can be downloaded without accepting terms first."""
        return all(remote.url is not None for remote in self.remotes)

    def official_files(self, source: Path) -> list[Path]:
        """Return the official files at a source: the source itself, or those in the folder."""
        if source.is_dir():
            return [source / remote.file for remote in self.remotes if (source / remote.file).is_file()]
        return [source]

    def import_command(self) -> str:
        """Return the command that imports manually downloaded files."""
        return f"suffice data import {self.name} {self.remotes[0].file if len(self.remotes) == 1 else 'FOLDER'}"


def find_folder(source: Path, folder: str, *names: str) -> Path | None:
    """Return the folder that contains files of all these names, or None.

    Candidates are the source, the subfolder `folder` of it and, if the source is one of the files, its parent.
    """
    for place in (source, source / folder, *([source.parent] if source.name in names else [])):
        if all((place / name).is_file() for name in names):
            return place
    return None
