"""Find stored data sets: `$SUFFICE_DATA/<name>/` holds memory-mapped arrays or Parquet, and a manifest with hashes.

An import writes to a temporary folder that replaces the target in one step (`suffice.storage.files`), so that a data
set is complete or absent. Only one import of a name runs at a time, and the remains of an interrupted one are removed
by the next. Every file is verified when it is opened (`suffice.data.store.stamps`). Arrays computed from a data set
later (splits, vocabularies) are cached once in its folder under `derived/` (`suffice.data.store.derived`).
"""

import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from suffice.data.store import derived, stamps
from suffice.data.store.dataset import StoredDataset
from suffice.storage import manifests, oserrors, reading
from suffice.utils.text import printable

FORMAT = 1
"""Version of the layout; data sets of other versions are refused."""

ADVICE = "point SUFFICE_DATA to another disk"
"""Remedy in the error message if the store is not writable."""

Result = TypeVar("Result")


def _file_patterns(manifest: manifests.Manifest) -> list[str]:
    """Return patterns of the files that a data set's folder may contain besides its manifest."""
    hidden = r"\.[^/]*\.suffice-(lock|[0-9a-f]{16})"
    later = [re.escape(stamps.FILE), hidden, f"{derived.FOLDER}/", rf"{derived.FOLDER}/([^/]+\.npz|{hidden})"]
    return [*map(re.escape, manifest["files"]), *later]


KIND = manifests.Kind(
    "a data set", "suffice data import", "move it away and import it again", FORMAT, {"files": dict}, _file_patterns
)
"""Manifest kind of a data set's folder."""


class NotStoredError(FileNotFoundError):
    """Error for a data set that is not in the store.

    Attributes:
        name: Name of the data set.
    """

    def __init__(self, name: str, advice: str = "") -> None:
        remedy = f"{advice}, or point" if advice else "point"
        super().__init__(
            f"expected the data set {name!r} in {printable(root())}, found none; {remedy} SUFFICE_DATA to where it is"
        )
        self.name = name


def root() -> Path:
    """Return `$SUFFICE_DATA`, or `~/.cache/suffice` if it is not set."""
    return Path(os.environ.get("SUFFICE_DATA") or Path.home() / ".cache" / "suffice")


def check_name(name: str) -> None:
    """Raise a ValueError unless a name is valid as the name of a folder."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name):
        raise ValueError(f"expected a name of small letters, digits, '.', '-' and '_', got {name!r}")


def find(name: str) -> StoredDataset:
    """Return the data set of that name.

    Raises:
        NotStoredError: If it is not in the store.
        ValueError: If a file is missing or has another size, or the manifest was changed.
    """
    return read_consistently(name, lambda stored: stored)


def read_consistently(name: str, read: Callable[[StoredDataset], Result]) -> Result:
    """Return the result of `read` for one version of a data set; repeat if another import replaces it meanwhile.

    Raises:
        NotStoredError: If the data set is not in the store.
        ValueError: If a file is missing, changed or has another size, or the manifest was changed.
    """
    check_name(name)
    return reading.read_consistently(root() / name, lambda folder: read(_open(name, folder)))


def _open(name: str, folder: Path) -> StoredDataset:
    if not folder.is_dir():
        raise NotStoredError(name)
    manifest = manifests.read_manifest(folder, KIND)
    for file, entry in manifest["files"].items():
        _check_entry(folder, file, entry)
        length = _length(folder / file)
        if length != entry["bytes"]:
            raise ValueError(
                f"expected {printable(folder / file)} with {entry['bytes']} bytes, got {length}; import {name} again"
            )
    return StoredDataset(root() / name, manifest)


def _check_entry(folder: Path, file: str, entry: object) -> None:
    """Raise a ValueError for a file entry that no import writes: a path, or an invalid size or hash."""
    valid = isinstance(entry, dict) and type(entry.get("bytes")) is int and type(entry.get("sha256")) is str
    if not valid or file in ("", ".", "..") or "/" in file or "\0" in file:
        raise ValueError(
            f"expected files by name with bytes and sha256 in {printable(folder)}, got {file!r}: {entry!r}"
        )


def _length(file: Path) -> int:
    """Return the size of a regular file in bytes; 0 for anything else."""
    try:
        status = os.stat(file)
    except FileNotFoundError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def require_free_space(size: int, folder: Path | None = None) -> None:
    """Raise an OSError if fewer than `size` bytes are free on the disk of a folder (default: the store)."""
    folder = folder or root()
    if shutil.disk_usage(folder).free < size:
        raise oserrors.disk_full_error(folder, f"{size / 1e9:,.2f} GB", ADVICE)


def names() -> list[str]:
    """Return the sorted names of the stored data sets."""
    if not root().is_dir():
        return []
    return sorted(f.name for f in root().iterdir() if not f.name.startswith(".") and (f / manifests.MANIFEST).is_file())


def damaged_files(stored: StoredDataset) -> list[str]:
    """Return the files whose SHA-256 differs from the manifest's; every file is read in full."""
    return [file for file in stored.manifest["files"] if not stored.is_intact(file)]
