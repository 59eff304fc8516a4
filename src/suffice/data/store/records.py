"""What is made from a data set once, recorded in its folder under `derived/`, with the set that it was made from."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from suffice.storage import files, reading
from suffice.storage.places import shown

FOLDER = "derived"
_OF = "made_from"
"""Among the arrays of a record: SHA-256 of the set's manifest; a record without it is from before it was kept."""
_UNWRITABLE = {errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOENT, errno.EEXIST}
"""Of a store that others keep; the last two of a set that was removed or imported again meanwhile."""

Arrays = dict[str, npt.NDArray[Any]]


def recorded(folder: Path, key: str, of: str, make: Callable[[], Arrays]) -> Arrays:
    """The arrays recorded under `key` for a set, made and recorded if they are not there yet.

    Of two processes that make them at once both return those that were recorded first. Where the folder cannot be
    written to they are made anew each time.

    Args:
        folder: of the set.
        key: of the record.
        of: SHA-256 of the set's manifest; a record made from another set is replaced.
        make: the arrays.

    Raises:
        ValueError: if the record is damaged.
    """
    file = folder / FOLDER / f"{key}.npz"
    found = _read(file, of)
    if found is not None:
        return found
    arrays = make()
    try:
        file.parent.mkdir(exist_ok=True)
        with files.alone(file, parents=False) as place:
            found = _read(file, of)
            if found is None:
                with place.file() as stream:
                    np.savez(stream, **arrays, **{_OF: np.array(of)})  # type: ignore[arg-type]  # none is allow_pickle
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
    return arrays if found is None else found


def _read(file: Path, of: str) -> Arrays | None:
    """The arrays of a record of that set, or None if there is none."""
    try:
        stream = reading.open_file(file)
    except FileNotFoundError:
        return None
    with stream:
        try:
            with np.load(stream, allow_pickle=False) as arrays:
                found = dict(arrays)
        except Exception as error:  # zipfile, zlib and NumPy each raise their own
            raise ValueError(f"expected arrays of this library, got a damaged {shown(file)}; remove it") from error
    return found if str(found.pop(_OF, of)) == of else None
