"""Waiting until files, and the names of files, are on disk."""

import errno
import os
from pathlib import Path

from suffice.storage.places import described


def folder(path: Path) -> None:
    """Wait until the names in a folder are on disk."""
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP):  # a file system without such a thing
            raise
    finally:
        os.close(descriptor)


def tree(path: Path) -> None:
    """Wait until all that is in a folder is on disk: first what is in it, then its names."""
    with os.scandir(path) as entries:
        found = list(entries)
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            tree(path / entry.name)
        else:
            with open(entry.path, "rb+") as stream:
                os.fsync(stream.fileno())
    folder(path)


def make(path: Path) -> None:
    """Make a folder and those above it that are missing, and wait until their names are on disk.

    Raises:
        NotADirectoryError: if one of them is something else.
    """
    missing = []
    while not path.is_dir():
        if os.path.lexists(path):
            raise NotADirectoryError(f"expected a folder, got {described(path)}; choose another path")
        missing.append(path)
        path = path.parent
    for each in reversed(missing):
        each.mkdir(exist_ok=True)
        folder(each.parent)
