"""One writer of a place at a time.

The lock is a hidden file beside the place, so that whoever reaches the place reaches the lock, by whatever path, user
or machine. It is removed while it is held: whoever waits for it finds that its file has no name any more (`filelock`
looks), and begins anew with a new one. After a kill it stays, locks nothing, and goes with the next writer.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from suffice.storage import places
from suffice.storage.places import shown

if TYPE_CHECKING:
    from filelock import BaseFileLock

_POLL = 0.02
"""Seconds between two looks at a lock that somebody holds."""


@contextmanager
def locked(target: Path, wait: bool = True) -> Iterator[None]:
    """Nobody else is in such a block for the same target, in this process or another.

    Raises:
        BlockingIOError: unless it waits: if somebody is.
        OSError: if no file can be made beside the target, or the file system has no locks.
    """
    from filelock import FileLock, Timeout, UnixFileLock  # a tenth of a second

    file = places.lock(target)
    lock = FileLock(file)
    os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o666))  # where no file can be made, `filelock` may try for ever
    try:
        lock.acquire(timeout=-1 if wait else 0, poll_interval=_POLL)
    except Timeout as error:
        raise BlockingIOError(f"somebody else is writing {shown(target)}; wait for that to end") from error
    try:
        yield
    finally:
        try:
            if isinstance(lock, UnixFileLock):  # what it is elsewhere removes its file by itself, or leaves it
                with suppress(OSError):
                    os.unlink(file)
        finally:
            _release(lock)


def _release(lock: "BaseFileLock") -> None:
    """Release a lock, also where the system will not hear of it at first, or Ctrl-C comes between."""
    try:
        lock.release()
    except OSError:
        lock.release(force=True)
    except BaseException:
        lock.release(force=True)
        raise
