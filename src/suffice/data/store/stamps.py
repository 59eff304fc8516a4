"""Check that a stored file is unchanged since its import; it is hashed once, and again only after a modification.

A verified hash is stored with the file's stamp: size, modification time, inode change time (which cannot be set back)
and inode number. Stamps are stored in the data set's folder (`verified.json`) by the import and after each later
verification, so that a large data set is not read in full at every start; if the folder is not writable, they are
kept in memory.
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
from suffice.utils.text import printable

FILE = "verified.json"
_SETTLED = 2_000_000_000
"""Nanoseconds after which another change is certain to change the times; file systems resolve up to two seconds."""

Stamp = list[int]

_here: dict[tuple[int, ...], str] = {}
"""SHA-256 by device and stamp of the files hashed by this process."""


def stamp(stream: BufferedIOBase) -> Stamp:
    """Return size, modification time, change time and inode of an open file."""
    status = os.fstat(stream.fileno())
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def check(folder: Path, name: str, stream: BufferedReader, sha256: str, *, anew: bool = False) -> None:
    """Check an open file of a data set, and leave the stream at its beginning.

    Args:
        folder: Folder of the data set.
        name: Name of the file.
        stream: The open file.
        sha256: SHA-256 of the file when it was imported.
        anew: Hash the file even if its stamp is known.

    Raises:
        ValueError: If the SHA-256 differs.
    """
    before = stamp(stream)
    key = (os.fstat(stream.fileno()).st_dev, *before)
    if not anew and (sha256 == _here.get(key) or load_verified(folder).get(name) == [sha256, *before]):
        return
    started = time.time_ns()
    digest = hashlib.file_digest(stream, "sha256").hexdigest()
    stream.seek(0)
    if digest != sha256:
        raise ValueError(
            f"expected {printable(folder / name)} with SHA-256 {sha256[:12]}…, got {digest[:12]}…; it was changed "
            "since the import: import the set again"
        )
    if stamp(stream) == before and started - max(before[1:3]) > _SETTLED:
        _here[key] = digest
        with suppress(OSError):  # the stamp only saves time
            save_verified(folder, {**load_verified(folder), name: [digest, *before]})


def load_verified(folder: Path) -> dict[str, list[Any]]:
    """Return SHA-256 and stamp of the verified files of a data set, by name."""
    try:
        verified = reading.read_json(folder / FILE)
    except (OSError, ValueError):
        return {}
    return verified if isinstance(verified, dict) else {}


def save_verified(folder: Path, verified: dict[str, list[Any]]) -> None:
    """Write SHA-256 and stamp of verified files, by name, for `load_verified`."""
    with files.lock_target(folder / FILE, parents=False) as place, place.atomic_file() as stream:
        stream.write(json.dumps(verified, indent=1).encode())
