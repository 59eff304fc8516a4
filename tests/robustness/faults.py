"""Injection of an error, an interrupt or a kill at the n-th system call of a piece of code.

Patched are the functions of `os` that reach the file system, `open` and the methods of the files that it returns (also
files passed to NumPy, zipfile and Arrow), the rename of `suffice.storage.filesystem` and the lock's `fcntl.flock`. Not
covered are memory maps after their creation, and files that a library opens itself; the library writes through
neither. `tests/robustness/test_traced.py` uses the kernel's own list of calls instead.
"""

import builtins
import errno
import fcntl
import io
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

from suffice.storage import filesystem

CALLS = (
    *("open", "close", "read", "write", "fsync", "stat", "lstat", "fstat", "mkdir", "rmdir", "unlink", "remove"),
    *("rename", "replace", "scandir", "listdir", "readlink", "truncate", "ftruncate", "statvfs", "chmod", "fchmod"),
    *("utime", "access", "link", "symlink", "lseek"),
)
METHODS = {"write", "flush", "read", "readinto", "readline", "seek", "tell", "truncate"}


class Calls:
    """Counter of system calls that calls `strike` at the n-th; `made` holds their names, for messages."""

    def __init__(self, n: int, strike: Callable[[], None]) -> None:
        self.n, self.strike, self.made = n, strike, []

    @property
    def struck(self) -> bool:
        return len(self.made) >= self.n

    def note(self, name: str, *arguments: object) -> None:
        del arguments
        self.made.append(name)
        if len(self.made) == self.n:
            self.strike()


class File:
    """File with counted methods."""

    def __init__(self, file: object, calls: Calls) -> None:
        self.__dict__.update(_file=file, _calls=calls)

    def __getattr__(self, name: str) -> object:
        attribute = getattr(self._file, name)
        return _counted(f"file.{name}", attribute, self._calls) if name in METHODS else attribute

    def close(self) -> None:
        try:
            if not self._file.closed:
                self._calls.note("file.close")
        finally:
            self._file.close()  # a close that fails closes the file all the same

    def __enter__(self) -> "File":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[object]:
        return iter(self._file)


@contextmanager
def at(n: int, strike: Callable[[], None]) -> Iterator[Calls]:
    """Call `strike` at the n-th system call in the block."""
    with recorded(Calls(n, strike)) as calls:
        yield calls


@contextmanager
def recorded(calls: Calls) -> Iterator[Calls]:
    """Record every system call in the block, before it is made."""
    opened = builtins.open

    def counted_open(*arguments: object, **named: object) -> object:
        calls.note("open()")
        return File(opened(*arguments, **named), calls)

    def counted_close(descriptor: int) -> None:
        try:
            calls.note("os.close")
        finally:
            close(descriptor)

    close, system = os.close, filesystem._rename_call()
    with ExitStack() as stack:
        for name in CALLS:
            wrapped = _counted(f"os.{name}", getattr(os, name), calls)
            stack.enter_context(mock.patch.object(os, name, wrapped))
        for module, name, wrapped in (
            (os, "fsync", lambda descriptor: calls.note("os.fsync", descriptor)),  # not needed: the machine stays on
            (os, "close", counted_close),
            (io, "open", counted_open),
            (builtins, "open", counted_open),
            (fcntl, "flock", _counted("flock", fcntl.flock, calls)),
        ):
            stack.enter_context(mock.patch.object(module, name, wrapped))
        if system is not None:
            counted = (_counted("renameat2", system[0], calls), *system[1:])
            stack.enter_context(mock.patch.object(filesystem, "_rename_call", return_value=counted))
        yield calls


def _counted(name: str, call: Callable[..., object], calls: Calls) -> Callable[..., object]:
    def counted(*arguments: object, **named: object) -> object:
        calls.note(name)
        return call(*arguments, **named)

    return counted


def fail() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupt() -> None:
    raise KeyboardInterrupt


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_fork(work: Callable[[], object]) -> int:
    """Call a function in a forked process, and return its exit status."""
    pid = os.fork()
    if not pid:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]
