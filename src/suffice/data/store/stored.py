"""A data set on disk: its files, each checked as it is opened, and what was made from them."""

import mmap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from suffice.data.store import records, stamps
from suffice.storage import manifests, reading

if TYPE_CHECKING:
    import pyarrow as pa

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Stored:
    """A data set on disk."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def size(self) -> int:
        """Bytes of its files, those derived left out."""
        return sum(entry["bytes"] for entry in self.manifest["files"].values())

    @contextmanager
    def open(self, file: str) -> Iterator[BufferedReader]:
        """One of its files, which is as it was imported.

        Raises:
            ValueError: if it was changed since.
            OSError: if it cannot be read.
        """
        folder = reading.there(self.folder)
        with reading.open_file(folder / file) as stream:
            stamps.check(folder, file, stream, self.manifest["files"][file]["sha256"])
            yield stream

    def sound(self, file: str) -> bool:
        """Whether one of its files is as it was imported; it is read through in any case."""
        folder = reading.there(self.folder)
        with reading.open_file(folder / file) as stream:
            try:
                stamps.check(folder, file, stream, self.manifest["files"][file]["sha256"], anew=True)
            except ValueError:
                return False
        return True

    def array(self, name: str) -> Array:
        """An array, memory-mapped; what is written to it stays in memory.

        Raises:
            ValueError: if the file was changed since the import.
        """
        with self.open(f"{name}.npy") as stream:
            if np.lib.format.read_magic(stream) != (1, 0):
                raise ValueError(f"expected an array of this library, got another version of the format in {name}.npy")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
            if dtype.hasobject or fortran:
                raise ValueError(f"expected an array of this library, got one of {dtype} in {name}.npy")
            return np.memmap(stream, dtype, "c", stream.tell(), shape)

    def parquet(self, name: str) -> "Parquet":
        """A Parquet file, held open.

        Raises:
            ValueError: if the file was changed since the import.
        """
        return Parquet(self, name)

    def table(self, name: str) -> "pa.Table":
        """A whole Parquet file, in memory.

        Raises:
            ValueError: if the file was changed since the import.
        """
        with self.parquet(name).open() as file:
            return file.read()

    def derived(self, key: str, make: Callable[[], dict[str, Array]]) -> dict[str, Array]:
        """The arrays recorded under `key`, made and recorded if they are not there yet.

        Where the folder cannot be written to they are made anew each time.

        Raises:
            ValueError: if the record is damaged.
        """
        return records.recorded(self.folder, key, manifests.digest(self.manifest), make)


class Parquet:
    """A Parquet file of a stored set, memory-mapped: it stays what it is when the set is imported again."""

    def __init__(self, stored: Stored, name: str) -> None:
        self._stored, self._name = stored, name
        with stored.open(f"{name}.parquet") as stream:
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)

    def open(self) -> AbstractContextManager[Any]:
        """A `pyarrow.parquet.ParquetFile`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        opened: AbstractContextManager[Any] = pq.ParquetFile(pa.BufferReader(pa.py_buffer(self._map)))
        return opened

    def __reduce__(self) -> tuple[type["Parquet"], tuple[Stored, str]]:
        """In another process it is opened, and checked, again."""
        return Parquet, (self._stored, self._name)
