"""Whether a stored file is still what was imported: hashed once, and again only after something touched it.

What a hash was found for is remembered by what the system says of the file: size, times of the last change of its
contents and of its inode (which nobody can set back), and inode. It is remembered in the set's folder
(`verified.json`), by the import and by whoever hashes the file later, so that a large set is not read through at every
start; where the folder cannot be written to, in this process.
"""

import hashlib
import json
import os
import time
from contextlib import suppress
from io import BufferedIOBase, BufferedReader
from pathlib import Path
from typing import Any

from suffice.storage import files, reading
from suffice.storage.places import shown

FILE = "verified.json"
_SETTLED = 2_000_000_000
"""Nanoseconds after which another change surely changes the times too; file systems count in up to two seconds."""

Stamp = list[int]

_here: dict[tuple[int, ...], str] = {}
"""SHA-256 by device and stamp, of files hashed by this process."""


def stamp(stream: BufferedIOBase) -> Stamp:
    """What changes when an open file does."""
    found = os.fstat(stream.fileno())
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def check(folder: Path, name: str, stream: BufferedReader, sha256: str, *, anew: bool = False) -> None:
    """Check a file of a set that was opened, and leave it at its beginning.

    Args:
        folder: of the set.
        name: of the file.
        stream: the file.
        sha256: that it had when it was imported.
        anew: hash it in any case.

    Raises:
        ValueError: if its SHA-256 is another one.
    """
    before = stamp(stream)
    key = (os.fstat(stream.fileno()).st_dev, *before)
    if not anew and (sha256 == _here.get(key) or remembered(folder).get(name) == [sha256, *before]):
        return
    began = time.time_ns()
    found = hashlib.file_digest(stream, "sha256").hexdigest()
    stream.seek(0)
    if found != sha256:
        raise ValueError(
            f"expected {shown(folder / name)} with SHA-256 {sha256[:12]}…, got {found[:12]}…; it was changed since the "
            "import: import the set again"
        )
    if stamp(stream) == before and began - max(before[1:3]) > _SETTLED:
        _here[key] = found
        with suppress(OSError):  # it is a convenience
            remember(folder, {**remembered(folder), name: [found, *before]})


def remembered(folder: Path) -> dict[str, list[Any]]:
    """SHA-256 and stamp of the files of a set that were hashed, by name."""
    try:
        found = reading.read_json(folder / FILE)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def remember(folder: Path, known: dict[str, list[Any]]) -> None:
    """Write what `remembered` reads."""
    with files.alone(folder / FILE, parents=False) as place, place.file() as stream:
        stream.write(json.dumps(known, indent=1).encode())
