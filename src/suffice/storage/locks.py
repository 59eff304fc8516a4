"""A lock for each path, so that one writer is active at a time.

The lock is a hidden file beside the path (`filelock`), so that every process that can reach the path can reach the
lock, whatever its working folder, user or machine. The file is removed while it is still locked: a waiting process
finds that the file it has locked has no name any more (`filelock` checks this), and starts again with a new file.
After a kill the file stays, unlocked, until the next writer removes it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from suffice.storage import paths
from suffice.utils.text import printable

if TYPE_CHECKING:
    from filelock import BaseFileLock

_POLL_INTERVAL = 0.02
"""Seconds between two attempts to take a lock."""


@contextmanager
def locked(target: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a path, which excludes other threads and processes.

    Args:
        target: Path to lock; it need not exist, its folder must.
        wait: Wait for another writer instead of raising an error.

    Raises:
        BlockingIOError: If another writer holds the lock and `wait` is False.
        OSError: If no file can be created beside the target, or the file system has no locks.
    """
    from filelock import FileLock, Timeout, UnixFileLock  # importing it takes a tenth of a second

    file = paths.lock_path(target)
    lock = FileLock(file)
    os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o666))  # raises where `filelock` might retry without end
    try:
        lock.acquire(timeout=-1 if wait else 0, poll_interval=_POLL_INTERVAL)
    except Timeout as error:
        name = printable(target)
        raise BlockingIOError(f"another process or thread is writing {name}; wait until it has finished") from error
    try:
        yield
    finally:
        try:
            if isinstance(lock, UnixFileLock):  # the other kinds remove their file themselves, or keep it
                with suppress(OSError):
                    os.unlink(file)
        finally:
            _release(lock)


def _release(lock: "BaseFileLock") -> None:
    """Release a lock, with a second attempt after an error of the system or an interrupt."""
    try:
        lock.release()
    except OSError:
        lock.release(force=True)
    except BaseException:
        lock.release(force=True)
        raise
