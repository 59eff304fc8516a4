"""Arrays computed from a data set once and cached in its folder under `derived/`, with the hash of their origin."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from suffice.storage import files, reading
from suffice.utils.text import printable

FOLDER = "derived"
_ORIGIN = "made_from"
"""Array of a file that holds the SHA-256 of the set's manifest; files written by older versions lack it."""
_UNWRITABLE = {errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOENT, errno.EEXIST}
"""Errors of a read-only store; the last two occur if the set was removed or imported again in the meantime."""

Arrays = dict[str, npt.NDArray[Any]]


def load_or_compute(folder: Path, key: str, of: str, make: Callable[[], Arrays]) -> Arrays:
    """Return the arrays cached under `key` for a data set; compute and cache them if there are none.

    Of two processes that compute them at once, both return those that were cached first. If the folder is not
    writable, they are computed each time.

    Args:
        folder: Folder of the data set.
        key: File name of the cached arrays, without its suffix.
        of: SHA-256 of the set's manifest; arrays cached for another manifest are replaced.
        make: Function that computes the arrays.

    Raises:
        ValueError: If the cached file is damaged.
    """
    file = folder / FOLDER / f"{key}.npz"
    cached = _read(file, of)
    if cached is not None:
        return cached
    arrays = make()
    try:
        file.parent.mkdir(exist_ok=True)
        with files.lock_target(file, parents=False) as place:
            cached = _read(file, of)
            if cached is None:
                with place.atomic_file() as stream:
                    np.savez(stream, **arrays, **{_ORIGIN: np.array(of)})  # type: ignore[arg-type]  # not allow_pickle
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
    return arrays if cached is None else cached


def _read(file: Path, of: str) -> Arrays | None:
    """Return the cached arrays, or None if there are none for this manifest."""
    try:
        stream = reading.open_file(file)
    except FileNotFoundError:
        return None
    with stream:
        try:
            with np.load(stream, allow_pickle=False) as archive:
                arrays = dict(archive)
        except Exception as error:  # zipfile, zlib and NumPy each raise their own
            raise ValueError(f"expected arrays of this library, got a damaged {printable(file)}; remove it") from error
    return arrays if str(arrays.pop(_ORIGIN, of)) == of else None
