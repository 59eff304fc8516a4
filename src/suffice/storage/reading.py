"""Reading what may be replaced at the same time, what may be no file at all, and JSON that may be anything."""

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

from suffice.storage import places
from suffice.storage.places import shown

MOST = 64 << 20
"""Bytes of a manifest, or of other JSON; a larger file is not read."""
DEEPEST = 100
"""Lists and mappings within each other in JSON."""

Read = TypeVar("Read")


def there(folder: Path) -> Path:
    """The folder, or the old one beside its place, where nothing took the place: for a moment, or since a crash."""
    old = places.aside(Path(os.path.realpath(folder)))
    if folder.exists() or not old.is_dir() or folder.exists():  # again: the new one may have come in between
        return folder
    return old


def steadily(folder: Path, read: Callable[[Path], Read], *, hashed: bool = True) -> Read:
    """What `read` makes of one version of a folder; a folder is replaced as a whole.

    Args:
        folder: that others may be replacing.
        read: called again if it fails and the folder was replaced meanwhile.
        hashed: it fails at files of two versions, because one holds the hash of the other; if not, it is called again
            whenever the folder was replaced.
    """
    while True:
        place = there(folder)
        with _held(place) as before:
            try:
                made = read(place)
            except (OSError, ValueError):
                if _stays(folder, place, before):
                    raise
            else:
                if hashed or _stays(folder, place, before):
                    return made


def _stays(folder: Path, place: Path, before: tuple[int, int] | None) -> bool:
    """Whether a folder is still where it was, and the same."""
    return there(folder) == place and _identity(place) == before and (before is not None or place == folder)


@contextmanager
def _held(folder: Path) -> Iterator[tuple[int, int] | None]:
    """The identity of a folder, which no other gets until the block ends, or None where there is none."""
    descriptor = -1
    try:
        if hasattr(os, "O_DIRECTORY"):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # it is not there, or may be entered but not listed
        pass
    try:
        yield _identity(folder)
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def open_file(file: Path) -> BufferedReader:
    """Open a file to be read, and nothing else: to open a FIFO would wait for somebody to write into it.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is a folder, a FIFO, a socket or a device.
    """
    _check_file(file, os.stat(file).st_mode)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(file, flags)
    try:
        _check_file(file, os.fstat(descriptor).st_mode)  # it may have been replaced
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _check_file(file: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise ValueError(f"expected a file, got a {places.kind(mode)} at {shown(file)}")


def read_file(file: Path, most: int = MOST) -> bytes:
    """The bytes of a file.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is no file, or larger than `most` bytes.
    """
    with open_file(file) as stream:
        payload = stream.read(most + 1)
    if len(payload) > most:
        raise ValueError(f"expected at most {most:,} bytes in {shown(file)}, got more")
    return payload


def read_json(file: Path) -> Any:
    """What a JSON file holds.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is no file, too large, no JSON, or nested deeper than `DEEPEST`.
    """
    payload = read_file(file)
    try:
        value = json.loads(payload)
        check_depth(value)
    except RecursionError as error:
        raise ValueError(f"expected JSON of at most {DEEPEST} levels in {shown(file)}, got more") from error
    except ValueError as error:
        raise ValueError(f"expected JSON in {shown(file)}, got something else: {error}") from error
    return value


def check_depth(value: Any) -> None:
    """Raise a ValueError for lists and mappings nested deeper than `DEEPEST`, whose `repr` may overflow the stack."""
    level = [value]
    for _ in range(DEEPEST + 1):
        lists = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        if not lists:
            return
        level = [child for each in lists for child in each]
    raise ValueError(f"lists and mappings of more than {DEEPEST} levels")
