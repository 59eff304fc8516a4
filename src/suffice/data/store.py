"""Where data sets live: `$SUFFICE_DATA/<name>/`, memory-mapped arrays or Parquet with a manifest that hashes them.

An import is written beside its place and renamed (`suffice.files`), so that a set is whole or absent; one import of
a name runs at a time, and what an interrupted one left is removed by the next. What is made from a set later
(splits, vocabularies) is recorded in its folder under `derived/`, once.
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import suffice
from suffice import files
from suffice.progress import Progress

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
"""Version of the layout; a set of another version is refused."""

ROW_GROUP = 32_768
"""Rows of a Parquet row group: what is read at once."""

_FOLDER = files.Kind("a data set", "suffice data import", "import it again", FORMAT)

Array = npt.NDArray[Any]


def root() -> Path:
    """`$SUFFICE_DATA`, or `~/.cache/suffice` where that is not set."""
    return Path(os.environ.get("SUFFICE_DATA") or Path.home() / ".cache" / "suffice")


def check_name(name: str) -> None:
    """Raise ValueError for a name that could not be a folder's."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name):
        raise ValueError(f"expected a name of small letters, digits, '.', '-' and '_', got {name!r}")


@dataclass(frozen=True)
class Stored:
    """A data set on disk."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def size(self) -> int:
        """Bytes of its files, those derived left out."""
        return sum(entry["bytes"] for entry in self.manifest["files"].values())

    def array(self, name: str) -> Array:
        """An array, memory-mapped; what is written to it stays in memory."""
        array: Array = np.load(self.folder / f"{name}.npy", mmap_mode="c", allow_pickle=False)
        return array

    def table(self, name: str) -> "pa.Table":
        """A whole Parquet file, in memory."""
        import pyarrow.parquet as pq

        return pq.read_table(self.folder / f"{name}.parquet")

    def derived(self, key: str, make: Callable[[], dict[str, Array]]) -> dict[str, Array]:
        """The arrays recorded under `key`, made and recorded if they are not there yet.

        Where the folder cannot be written to they are made anew each time.

        Raises:
            ValueError: if the record is damaged.
        """
        file = self.folder / "derived" / f"{key}.npz"
        if file.is_file():
            try:
                with np.load(file, allow_pickle=False) as arrays:
                    return dict(arrays)
            except Exception as error:  # zipfile, zlib and NumPy each raise their own
                raise ValueError(f"expected arrays of this library, got a damaged {file}; remove it") from error
        arrays = make()
        try:
            _record(file, arrays)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EROFS, errno.EPERM):
                raise
        return arrays


def _record(file: Path, arrays: dict[str, Array]) -> None:
    file.parent.mkdir(exist_ok=True)
    part = file.parent / f".{file.name}.{uuid.uuid4().hex}"  # with the permissions of any file, unlike `tempfile`'s
    try:
        with part.open("xb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]  # none of the names is allow_pickle
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def find(name: str) -> Stored:
    """The data set of that name.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if a file is missing or of another length, or the manifest was changed.
    """
    check_name(name)
    folder = root() / name
    if not folder.is_dir():
        from suffice.data import catalogue  # it holds what writes into the store

        raise FileNotFoundError(
            f"expected the data set {name!r} in {root()}, found none; {catalogue.how_to_get(name, names())}, or point "
            "SUFFICE_DATA to where it is"
        )
    manifest = files.read_manifest(folder, _FOLDER)
    for file, entry in manifest["files"].items():
        found = (folder / file).stat().st_size if (folder / file).is_file() else 0
        if found != entry["bytes"]:
            raise ValueError(f"expected {folder / file} with {entry['bytes']} bytes, got {found}; import {name} again")
    return Stored(folder, manifest)


def need(size: int) -> None:
    """Raise OSError if fewer than `size` bytes are free for data."""
    free = shutil.disk_usage(root()).free
    if free < size:
        raise _full(f"{size / 1e9:,.2f} GB", free)


def names() -> list[str]:
    """Names of the folders that hold a data set, sorted."""
    if not root().is_dir():
        return []
    return sorted(f.name for f in root().iterdir() if not f.name.startswith(".") and (f / files.MANIFEST).is_file())


def damaged(stored: Stored) -> list[str]:
    """Files whose SHA-256 is not the manifest's; reads everything."""
    return [f for f, entry in stored.manifest["files"].items() if sha256(stored.folder / f) != entry["sha256"]]


def sha256(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass
class Writer:
    """A data set while it is being written: files go into `folder`, facts into `manifest`."""

    folder: Path
    progress: Progress
    manifest: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def array(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Iterator[Callable[[Array], None]]:
        """A function that appends blocks along the first axis of a new array; the block must fill it.

        Written in order, not through a memory map: a full disk is then an error and not a crash.
        """
        kind = np.dtype(dtype)
        need(int(np.prod(shape)) * kind.itemsize)
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

        with pq.ParquetWriter(self.folder / f"{name}.parquet", schema, write_statistics=False) as out:
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
def create(name: str, progress: Progress) -> Iterator[Writer]:
    """A writer of the data set `name`, which takes the place of any of that name when the block ends.

    Raises:
        BlockingIOError: if another import of that name is running.
        OSError: if the disk is full, saying how much is free.
    """
    check_name(name)
    root().mkdir(parents=True, exist_ok=True)
    with _alone(name), disk_full_is_said():
        for left in root().glob(f".{name}.????????"):
            shutil.rmtree(left, ignore_errors=True)
        with files.whole(root() / name) as folder:
            writer = Writer(folder, progress)
            yield writer
            _finish(writer, name)


def _finish(writer: Writer, name: str) -> None:
    """Hash and sync every file, and write the manifest."""
    entries = {}
    for file in sorted(writer.folder.iterdir()):
        with file.open("rb+") as stream:
            os.fsync(stream.fileno())
        entries[file.name] = {"bytes": file.stat().st_size, "sha256": sha256(file)}
    head = {"format": FORMAT, "library": f"suffice {suffice.__version__}", "name": name}
    files.write_manifest(writer.folder, {**head, **writer.manifest, "files": entries})


@contextmanager
def _alone(name: str) -> Iterator[None]:
    lock = root() / f".{name}.lock"
    with lock.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(f"another import of {name} is running; wait for it to end") from error
        yield


@contextmanager
def disk_full_is_said() -> Iterator[None]:
    """Turn the system's error of a full disk into one that says where, and how much is free."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or isinstance(error, _DiskFullError):
            raise
        raise _full("more space", shutil.disk_usage(root()).free) from error


class _DiskFullError(OSError):
    """The message that says how much there is, and what to do."""

    def __str__(self) -> str:
        return str(self.args[1])


def _full(needed: str, free: int) -> _DiskFullError:
    message = (
        f"expected {needed} on the disk of {root()}, found {free / 1e9:,.2f} GB free; "
        "free some, or point SUFFICE_DATA to another disk"
    )
    return _DiskFullError(errno.ENOSPC, message)
