"""Read NumPy archives (`.npz`) from untrusted sources: bounded size, expected types, no pickles."""

import io
import zipfile
from pathlib import Path

import numpy as np

from suffice.data.store import archives
from suffice.data.store.dataset import Array

LIMIT = 256 << 20
"""Largest array, in bytes."""
KINDS = {"integers": "iu", "text": "SU"}
"""NumPy type codes by kind of array."""


def read(file: Path, **kinds: str) -> dict[str, Array]:
    """Return one-dimensional arrays of an archive by name.

    Args:
        file: The archive.
        **kinds: Kind of each array, `integers` or `text`, by name.

    Raises:
        ValueError: If an array is missing, damaged, of another kind, or larger than `LIMIT` bytes.
    """
    with archives.damage_as_value_error(file):
        if not zipfile.is_zipfile(file):
            raise ValueError(f"expected a NumPy archive, got {file}; it is truncated or of another type")
        with zipfile.ZipFile(file) as archive:
            return {name: _array(archive, name, kind, file) for name, kind in kinds.items()}


def _array(archive: zipfile.ZipFile, name: str, kind: str, file: Path) -> Array:
    where = f"{name} in {file}"
    if f"{name}.npy" not in archive.namelist():
        raise ValueError(f"expected the array {where}, the archive has only {', '.join(archive.namelist())[:200]}")
    with archive.open(f"{name}.npy") as stream:
        data = archives.read_bounded(stream, LIMIT, where)
    try:
        array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # a damaged header can raise anything
        raise ValueError(f"expected an array of {kind}, got a damaged {where}: {error}") from error
    if array.dtype.kind not in KINDS[kind] or array.ndim != 1:
        raise ValueError(f"expected an array of {kind}, got {array.dtype} of shape {array.shape} as {where}")
    return array
