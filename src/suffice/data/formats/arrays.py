"""NumPy archives (`.npz`) read within bounds: each array whole, of the kind that is expected, and never a pickle."""

import io
import zipfile
from pathlib import Path

import numpy as np

from suffice.data.store import archives
from suffice.data.store.dataset import Array

LIMIT = 256 << 20
"""Largest array, in bytes."""
KINDS = {"integers": "iu", "text": "SU"}
"""Of arrays, as NumPy's letters."""


def read(file: Path, **kinds: str) -> dict[str, Array]:
    """Return arrays (N,) of an archive by name.

    Args:
        file: the archive.
        **kinds: `integers` or `text` of each name.

    Raises:
        ValueError: naming an array that is missing, damaged, of another kind, or more than `LIMIT` bytes.
    """
    with archives.damage_as_value_error(file):
        if not zipfile.is_zipfile(file):
            raise ValueError(f"expected a NumPy archive, got {file}; it is truncated or something else")
        with zipfile.ZipFile(file) as archive:
            return {name: _array(archive, name, kind, file) for name, kind in kinds.items()}


def _array(archive: zipfile.ZipFile, name: str, kind: str, file: Path) -> Array:
    where = f"{name} in {file}"
    if f"{name}.npy" not in archive.namelist():
        raise ValueError(f"expected the array {where}, found only {', '.join(archive.namelist())[:200]}")
    with archive.open(f"{name}.npy") as stream:
        data = archives.read_bounded(stream, LIMIT, where)
    try:
        found = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # a damaged header can raise anything
        raise ValueError(f"expected an array of {kind}, got a damaged {where}: {error}") from error
    if found.dtype.kind not in KINDS[kind] or found.ndim != 1:
        raise ValueError(f"expected an array of {kind}, got {found.dtype} of shape {found.shape} as {where}")
    return found
