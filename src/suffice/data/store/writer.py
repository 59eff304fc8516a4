"""Write a data set into the store: arrays, Parquet files and a manifest that hashes them."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from suffice._version import __version__
from suffice.data.store import stamps
from suffice.data.store.dataset import Array
from suffice.data.store.lookup import ADVICE, FORMAT, KIND, check_name, require_free_space, root
from suffice.storage import files, manifests
from suffice.utils.progress import ProgressCallback

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP = 32_768
"""Rows of a Parquet row group, the unit that is read at once."""


@dataclass
class DatasetWriter:
    """Data set that is being written.

    Attributes:
        folder: Temporary folder of its files.
        progress: Progress callback of the import.
        manifest: Entries of the manifest so far.
    """

    folder: Path
    progress: ProgressCallback
    manifest: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def array(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Iterator[Callable[[Array], None]]:
        """Yield a function that appends blocks along the first axis of a new array; the blocks must fill it.

        Blocks are written in order and not through a memory map, so that a full disk raises an error instead of
        crashing the process.
        """
        kind = np.dtype(dtype)
        require_free_space(int(np.prod(shape)) * kind.itemsize, self.folder.parent)
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
        """Yield a function that appends the schema's columns of a table to a new Parquet file."""
        import pyarrow.parquet as pq

        with (
            (self.folder / f"{name}.parquet").open("wb") as stream,
            pq.ParquetWriter(stream, schema, write_statistics=False) as out,
        ):
            yield lambda table: out.write_table(table.select(schema.names).cast(schema), row_group_size=ROW_GROUP)

    def save(self, name: str, values: npt.ArrayLike, dtype: npt.DTypeLike) -> None:
        """Write an array that is in memory."""
        block = np.asarray(values)
        with self.array(name, block.shape, dtype) as append:
            append(block)


def _write_header(stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, description)


@contextmanager
def create_dataset(name: str, progress: ProgressCallback) -> Iterator[DatasetWriter]:
    """Yield a writer of a new data set, which replaces the stored one of that name at the end of the block.

    Raises:
        FileExistsError: If the folder exists and is not a data set, or contains other files too.
        BlockingIOError: If another import of that name is running.
        OSError: If the disk is full; the message states the free space.
    """
    check_name(name)
    owned = partial(manifests.owned_paths, kind=KIND)
    with files.atomic_folder(root() / name, owned, wait=False, advice=ADVICE) as folder:
        writer = DatasetWriter(folder, progress)
        yield writer
        _finish(writer, name)


def _finish(writer: DatasetWriter, name: str) -> None:
    """Hash every file, store the hashes with the files' stamps, and write the manifest."""
    entries, verified = {}, {}
    for file in sorted(writer.folder.iterdir()):
        with file.open("rb+") as stream:
            os.fsync(stream.fileno())
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            verified[file.name] = [sha256, *stamps.stamp(stream)]
        entries[file.name] = {"bytes": file.stat().st_size, "sha256": sha256}
    head = {"format": FORMAT, "library": f"suffice {__version__}", "name": name}
    manifests.write_manifest(writer.folder, {**head, **writer.manifest, "files": entries})
    stamps.save_verified(writer.folder, verified)
