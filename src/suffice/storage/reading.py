"""Safe reading: of folders that another process may replace, of paths that may not be files, and of any JSON."""

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

from suffice.storage import paths
from suffice.utils.text import printable

MAX_BYTES = 64 << 20
"""Largest manifest or other JSON file that is read, in bytes."""

MAX_DEPTH = 100
"""Deepest nesting of lists and mappings in JSON."""

Read = TypeVar("Read")


def current_folder(folder: Path) -> Path:
    """Return the folder, or its backup beside it if the folder is missing.

    The folder is missing for a moment while it is replaced in two steps, or after a crash between them.
    """
    backup = paths.backup_path(Path(os.path.realpath(folder)))
    # The folder is checked again, as its replacement may have appeared after the first check.
    if folder.exists() or not backup.is_dir() or folder.exists():
        return folder
    return backup


def read_consistently(folder: Path, read: Callable[[Path], Read], *, hashed: bool = True) -> Read:
    """Return the result of `read` on one version of a folder that other processes may replace as a whole.

    Args:
        folder: Folder to read.
        read: Function of the folder's current path. It is called again if it raised and the folder was replaced.
        hashed: Whether `read` raises on files of different versions, because one holds the hash of the other. If
            False, it is called again whenever the folder was replaced.
    """
    while True:
        path = current_folder(folder)
        with _pinned(path) as identity:
            try:
                result = read(path)
            except (OSError, ValueError):
                if _is_current(folder, path, identity):
                    raise
            else:
                if hashed or _is_current(folder, path, identity):
                    return result


def _is_current(folder: Path, path: Path, identity: tuple[int, int] | None) -> bool:
    """Return whether a folder is still at the path, and still the same one."""
    unchanged = current_folder(folder) == path and _identity(path) == identity
    return unchanged and (identity is not None or path == folder)


@contextmanager
def _pinned(folder: Path) -> Iterator[tuple[int, int] | None]:
    """Yield the identity of a folder, or None if it is missing. No other folder gets that identity in the block."""
    descriptor = -1
    try:
        if hasattr(os, "O_DIRECTORY"):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # the folder is missing, or its permissions allow entering but not listing
        pass
    try:
        yield _identity(folder)
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _identity(path: Path) -> tuple[int, int] | None:
    """Return the device and inode of a path, or None if it is missing."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def open_file(file: Path) -> BufferedReader:
    """Open a regular file for reading. Other file types are refused; opening a FIFO would block.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is a folder, a FIFO, a socket or a device.
    """
    _check_regular(file, os.stat(file).st_mode)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(file, flags)
    try:
        _check_regular(file, os.fstat(descriptor).st_mode)  # the file may have been replaced since the first check
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _check_regular(file: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise ValueError(f"expected a file, got a {paths.file_type(mode)} at {printable(file)}")


def read_file(file: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the bytes of a regular file.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is not a regular file, or larger than `max_bytes`.
    """
    with open_file(file) as stream:
        payload = stream.read(max_bytes + 1)
    if len(payload) > max_bytes:
        raise ValueError(f"expected at most {max_bytes:,} bytes in {printable(file)}, got more")
    return payload


def read_json(file: Path) -> Any:
    """Return the value in a JSON file.

    Raises:
        FileNotFoundError: If the file is missing.
        ValueError: If it is not a regular file, too large, not JSON, or nested deeper than `MAX_DEPTH`.
    """
    payload = read_file(file)
    try:
        value = json.loads(payload)
        check_depth(value)
    except RecursionError as error:
        raise ValueError(f"expected JSON of at most {MAX_DEPTH} levels in {printable(file)}, got more") from error
    except ValueError as error:
        raise ValueError(f"expected JSON in {printable(file)}, got something else: {error}") from error
    return value


def check_depth(value: Any) -> None:
    """Raise a ValueError if lists and mappings are nested deeper than `MAX_DEPTH`; their `repr` might overflow."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        nested = [node.values() if isinstance(node, dict) else node for node in level if isinstance(node, dict | list)]
        if not nested:
            return
        level = [child for node in nested for child in node]
    raise ValueError(f"expected lists and mappings of at most {MAX_DEPTH} levels, got more than {MAX_DEPTH} levels")
