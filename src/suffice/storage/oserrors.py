"""The system's errors as one message each: what was to be written, what came of it, and what to do.

They keep their class and their `errno`; an error with a message of ours has no `strerror`, and is not changed again.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from suffice.storage.places import shown


@contextmanager
def said(target: Path, advice: str) -> Iterator[None]:
    """Name the target in errors of the system, but for that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.strerror is None or _full(error):
            raise
        at = f" at {shown(error.filename)}" if isinstance(error.filename, str) else ""
        raise _told(error, f"expected to write {shown(target)}, got {error.strerror}{at}; {advice}") from error


@contextmanager
def disk_full_is_said(folder: Path, advice: str) -> Iterator[None]:
    """Say in the system's error of a full disk which, how much is free, and what to do."""
    try:
        yield
    except OSError as error:
        if error.strerror is None or not _full(error):
            raise
        raise disk_full(folder, "more space", advice, error) from error


def disk_full(folder: Path, needed: str, advice: str, error: OSError | None = None) -> OSError:
    """An error of a disk, or of a quota, that is too full, or of a file larger than a process may write."""
    error = error or OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if error.errno == errno.EFBIG:
        found = "a limit on the size of a file; raise it (ulimit -f)"
        return _told(error, f"expected {needed} at {shown(folder)}, found {found}, or {advice}")
    found = "a quota that is used up"
    if error.errno == errno.ENOSPC:
        there = next((each for each in (folder, *folder.parents) if each.exists()), Path.cwd())
        found = f"{shutil.disk_usage(there).free / 1e9:,.2f} GB free"
    return _told(error, f"expected {needed} on the disk of {shown(folder)}, found {found}; free some, or {advice}")


def _full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _told(error: OSError, message: str) -> OSError:
    told = type(error)(message)
    told.errno = error.errno
    return told
