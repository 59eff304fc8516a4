"""Stored data set: its files, each verified when it is opened, and the arrays cached beside them."""

import mmap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from suffice.data.store import derived, stamps
from suffice.storage import manifests, reading

if TYPE_CHECKING:
    import pyarrow as pa

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class StoredDataset:
    """Data set on disk.

    Attributes:
        folder: Folder of its files.
        manifest: Contents of its manifest.
    """

    folder: Path
    manifest: dict[str, Any]

    @property
    def size(self) -> int:
        """Total size of the files in bytes, without derived arrays."""
        return sum(entry["bytes"] for entry in self.manifest["files"].values())

    @contextmanager
    def open(self, file: str) -> Iterator[BufferedReader]:
        """Open one of the files, and check that it is unchanged since the import.

        Raises:
            ValueError: If the file was changed.
            OSError: If it cannot be read.
        """
        folder = reading.current_folder(self.folder)
        with reading.open_file(folder / file) as stream:
            stamps.check(folder, file, stream, self.manifest["files"][file]["sha256"])
            yield stream

    def is_intact(self, file: str) -> bool:
        """Return whether a file is unchanged since the import; it is always read in full."""
        folder = reading.current_folder(self.folder)
        with reading.open_file(folder / file) as stream:
            try:
                stamps.check(folder, file, stream, self.manifest["files"][file]["sha256"], anew=True)
            except ValueError:
                return False
        return True

    def array(self, name: str) -> Array:
        """Return an array, memory-mapped; writes to it stay in memory (copy on write).

        Raises:
            ValueError: If the file was changed since the import.
        """
        with self.open(f"{name}.npy") as stream:
            if np.lib.format.read_magic(stream) != (1, 0):
                raise ValueError(f"expected an array of this library, got another version of the format in {name}.npy")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
            if dtype.hasobject or fortran:
                raise ValueError(f"expected an array of this library, got one of {dtype} in {name}.npy")
            return np.memmap(stream, dtype, "c", stream.tell(), shape)

    def parquet(self, name: str) -> "StoredParquet":
        """Return a Parquet file, memory-mapped.

        Raises:
            ValueError: If the file was changed since the import.
        """
        return StoredParquet(self, name)

    def table(self, name: str) -> "pa.Table":
        """Return a whole Parquet file, in memory.

        Raises:
            ValueError: If the file was changed since the import.
        """
        with self.parquet(name).open() as file:
            return file.read()

    def derived(self, key: str, make: Callable[[], dict[str, Array]]) -> dict[str, Array]:
        """Return the arrays cached under `key`; compute and cache them if there are none.

        If the folder is not writable, they are computed each time.

        Raises:
            ValueError: If the cached file is damaged.
        """
        return derived.load_or_compute(self.folder, key, manifests.digest(self.manifest), make)


class StoredParquet:
    """Parquet file of a stored data set, memory-mapped: a later import of the same name does not change it."""

    def __init__(self, stored: StoredDataset, name: str) -> None:
        self._stored, self._name = stored, name
        with stored.open(f"{name}.parquet") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)

    def open(self) -> AbstractContextManager[Any]:
        """Return a `pyarrow.parquet.ParquetFile` of the mapped bytes."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        file: AbstractContextManager[Any] = pq.ParquetFile(pa.BufferReader(pa.py_buffer(self._map)))
        return file

    def __reduce__(self) -> tuple[type["StoredParquet"], tuple[StoredDataset, str]]:
        """Pickle by reference; another process opens and verifies the file again."""
        return StoredParquet, (self._stored, self._name)
