"""Errors of the operating system as messages that name the path, the cause and the remedy.

The class and the `errno` of an error stay. An error with a message from this module has no `strerror`, so that it is
not rewritten a second time.
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from suffice.utils.text import printable


@contextmanager
def explain_os_errors(target: Path, advice: str) -> Iterator[None]:
    """Add the target and the advice to an OSError raised in the block, except for a full disk.

    Args:
        target: Path that is being written.
        advice: Remedy, for the end of the message.
    """
    try:
        yield
    except OSError as error:
        if error.strerror is None or _is_disk_full(error):
            raise
        at = f" at {printable(error.filename)}" if isinstance(error.filename, str) else ""
        message = f"expected to write {printable(target)}, got {error.strerror}{at}; {advice}"
        raise _with_message(error, message) from error


@contextmanager
def explain_disk_full(folder: Path, advice: str) -> Iterator[None]:
    """Replace the error of a full disk raised in the block by one that states the free space and the remedy.

    Args:
        folder: Folder on the disk that is written to.
        advice: Remedy other than freeing space, for the end of the message.
    """
    try:
        yield
    except OSError as error:
        if error.strerror is None or not _is_disk_full(error):
            raise
        raise disk_full_error(folder, "more space", advice, error) from error


def disk_full_error(folder: Path, needed: str, advice: str, error: OSError | None = None) -> OSError:
    """Return an error for a full disk, an exhausted quota, or a file above the process's size limit.

    Args:
        folder: Folder on the disk that is written to; it need not exist.
        needed: Space that is needed, for the message.
        advice: Remedy other than freeing space, for the end of the message.
        error: Error of the system; None for a full disk that was found before writing.
    """
    error = error or OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if error.errno == errno.EFBIG:
        cause = "a limit on the size of a file; raise it (ulimit -f)"
        return _with_message(error, f"expected {needed} at {printable(folder)}, found {cause}, or {advice}")
    cause = "an exhausted disk quota"
    if error.errno == errno.ENOSPC:
        existing = next((path for path in (folder, *folder.parents) if path.exists()), Path.cwd())
        cause = f"{shutil.disk_usage(existing).free / 1e9:,.2f} GB free"
    message = f"expected {needed} on the disk of {printable(folder)}, found {cause}; free some space, or {advice}"
    return _with_message(error, message)


def _is_disk_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _with_message(error: OSError, message: str) -> OSError:
    """Return an error of the same class and number with another message."""
    explained = type(error)(message)
    explained.errno = error.errno
    return explained
