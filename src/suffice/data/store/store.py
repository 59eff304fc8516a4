"""Where data sets live: `$SUFFICE_DATA/<name>/`, memory-mapped arrays or Parquet with a manifest that hashes them.

An import is written beside its place and takes it in one step (`suffice.storage.files`), so that a set is whole or
absent; one import of a name runs at a time, and what an interrupted one left is removed by the next. Every file is
checked when it is opened (`suffice.data.store.stamps`). What is made from a set later (splits, vocabularies) is
recorded in its folder under `derived/`, once (`suffice.data.store.records`).
"""

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from suffice._version import __version__
from suffice.data.store import records, stamps
from suffice.data.store.stored import Array as Array
from suffice.data.store.stored import Stored as Stored
from suffice.storage import files, manifests, oserrors, reading
from suffice.storage.places import shown
from suffice.utils.progress import ProgressCallback

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
"""Version of the layout; a set of another version is refused."""

ROW_GROUP = 32_768
"""Rows of a Parquet row group: what is read at once."""

ADVICE = "point SUFFICE_DATA to another disk"
"""Where the store cannot be written to."""

Read = TypeVar("Read")


def _files(manifest: manifests.Manifest) -> list[str]:
    """Patterns of what may be in the folder of a set, beside its manifest."""
    hidden = r"\.[^/]*\.suffice-(lock|[0-9a-f]{16})"
    made = [re.escape(stamps.FILE), hidden, f"{records.FOLDER}/", rf"{records.FOLDER}/([^/]+\.npz|{hidden})"]
    return [*map(re.escape, manifest["files"]), *made]


_FOLDER = manifests.Kind(
    "a data set", "suffice data import", "move it away and import it again", FORMAT, {"files": dict}, _files
)


class NotStoredError(FileNotFoundError):
    """A data set that is not in the store.

    Attributes:
        name: of the data set.
    """

    def __init__(self, name: str, advice: str = "") -> None:
        remedy = f"{advice}, or point" if advice else "point"
        super().__init__(
            f"expected the data set {name!r} in {shown(root())}, found none; {remedy} SUFFICE_DATA to where it is"
        )
        self.name = name


def root() -> Path:
    """`$SUFFICE_DATA`, or `~/.cache/suffice` where that is not set."""
    return Path(os.environ.get("SUFFICE_DATA") or Path.home() / ".cache" / "suffice")


def check_name(name: str) -> None:
    """Raise ValueError for a name that could not be a folder's."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name):
        raise ValueError(f"expected a name of small letters, digits, '.', '-' and '_', got {name!r}")


def find(name: str) -> Stored:
    """The data set of that name.

    Raises:
        NotStoredError: if it is not there.
        ValueError: if a file is missing or of another length, or the manifest was changed.
    """
    return steadily(name, lambda stored: stored)


def steadily(name: str, read: Callable[[Stored], Read]) -> Read:
    """What `read` makes of one version of a data set, from the next one if it is imported again meanwhile.

    Raises:
        NotStoredError: if it is not there.
        ValueError: if a file is missing, of another length or changed, or the manifest was changed.
    """
    check_name(name)
    return reading.steadily(root() / name, lambda folder: read(_found(name, folder)))


def _found(name: str, folder: Path) -> Stored:
    if not folder.is_dir():
        raise NotStoredError(name)
    manifest = manifests.read_manifest(folder, _FOLDER)
    for file, entry in manifest["files"].items():
        _check_entry(folder, file, entry)
        found = _length(folder / file)
        if found != entry["bytes"]:
            raise ValueError(
                f"expected {shown(folder / file)} with {entry['bytes']} bytes, got {found}; import {name} again"
            )
    return Stored(root() / name, manifest)


def _check_entry(folder: Path, file: str, entry: object) -> None:
    """Refuse what no import writes: a file elsewhere, a length or a hash that is none."""
    known = isinstance(entry, dict) and type(entry.get("bytes")) is int and type(entry.get("sha256")) is str
    if not known or file in ("", ".", "..") or "/" in file or "\0" in file:
        raise ValueError(f"expected files by name with bytes and sha256 in {shown(folder)}, got {file!r}: {entry!r}")


def _length(file: Path) -> int:
    """Bytes of a file; 0 of what is none."""
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0


def need(size: int, folder: Path | None = None) -> None:
    """Raise OSError if fewer than `size` bytes are free for a folder, or for the store."""
    folder = folder or root()
    if shutil.disk_usage(folder).free < size:
        raise oserrors.disk_full(folder, f"{size / 1e9:,.2f} GB", ADVICE)


def names() -> list[str]:
    """Names of the folders that hold a data set, sorted."""
    if not root().is_dir():
        return []
    return sorted(f.name for f in root().iterdir() if not f.name.startswith(".") and (f / manifests.MANIFEST).is_file())


def damaged(stored: Stored) -> list[str]:
    """Files whose SHA-256 is not the manifest's; reads everything."""
    return [file for file in stored.manifest["files"] if not stored.sound(file)]


@dataclass
class Writer:
    """A data set while it is being written: files go into `folder`, facts into `manifest`."""

    folder: Path
    progress: ProgressCallback
    manifest: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def array(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Iterator[Callable[[Array], None]]:
        """A function that appends blocks along the first axis of a new array; the block must fill it.

        Written in order, not through a memory map: a full disk is then an error and not a crash.
        """
        kind = np.dtype(dtype)
        need(int(np.prod(shape)) * kind.itemsize, self.folder.parent)
        written = 0
        with (self.folder / f"{name}.npy").open("wb") as stream:
            _write_header(stream, shape, kind)

            def append(block: Array) -> None:
                nonlocal written
                if block.shape[1:] != shape[1:] or written + len(block) > shape[0]:
                    raise ValueError(f"expected {shape} in {name}, got {block.shape} after {written} rows")
                stream.write(np.ascontiguousarray(block, dtype=kind).data)
                written += len(block)

            yield append
        if written != shape[0]:
            raise ValueError(f"expected {shape[0]} rows in {name}, got {written}; the source is truncated")

    @contextmanager
    def table(self, name: str, schema: "pa.Schema") -> Iterator[Callable[["pa.Table"], None]]:
        """A function that appends the columns of a schema to a new Parquet file, in groups of `ROW_GROUP` rows."""
        import pyarrow.parquet as pq

        with (
            (self.folder / f"{name}.parquet").open("wb") as stream,
            pq.ParquetWriter(stream, schema, write_statistics=False) as out,
        ):
            yield lambda table: out.write_table(table.select(schema.names).cast(schema), row_group_size=ROW_GROUP)

    def save(self, name: str, values: npt.ArrayLike, dtype: npt.DTypeLike) -> None:
        """A whole array at once."""
        block = np.asarray(values)
        with self.array(name, block.shape, dtype) as append:
            append(block)


def _write_header(stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, description)


@contextmanager
def create(name: str, progress: ProgressCallback) -> Iterator[Writer]:
    """A writer of the data set `name`, which takes the place of any of that name when the block ends.

    Raises:
        FileExistsError: if something of that name is there that is no data set, or one with other files in it.
        BlockingIOError: if another import of that name is running.
        OSError: if the disk is full, saying how much is free.
    """
    check_name(name)
    owned = partial(manifests.owned, kind=_FOLDER)
    with files.whole(root() / name, owned, wait=False, advice=ADVICE) as folder:
        writer = Writer(folder, progress)
        yield writer
        _finish(writer, name)


def _finish(writer: Writer, name: str) -> None:
    """Hash every file, note what the hashes were found for, and write the manifest."""
    entries, known = {}, {}
    for file in sorted(writer.folder.iterdir()):
        with file.open("rb+") as stream:
            os.fsync(stream.fileno())
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            known[file.name] = [sha256, *stamps.stamp(stream)]
        entries[file.name] = {"bytes": file.stat().st_size, "sha256": sha256}
    head = {"format": FORMAT, "library": f"suffice {__version__}", "name": name}
    manifests.write_manifest(writer.folder, {**head, **writer.manifest, "files": entries})
    stamps.remember(writer.folder, known)
