"""Two names swapped in one step, and a rename that replaces nothing: by the system's own calls where it has them.

Linux has `renameat2` (since 3.15; ext4, XFS, Btrfs, tmpfs and others), macOS has `renamex_np` (APFS).
"""

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}
"""Of the file system, of the kernel, of the file system again, by its two names, of a sandbox."""

Rename = Callable[[bytes, bytes, int], int]


def exchange(first: Path, second: Path) -> bool:
    """Swap the names of two files or folders of one file system; nobody finds either of them missing.

    Returns:
        False where the system cannot: then nothing was changed.

    Raises:
        OSError: if it can and did not.
    """
    system = _system()
    return system is not None and _renamed(system[0], first, second, system[1])


def rename_new(source: Path, target: Path) -> None:
    """Rename a file or folder, replacing nothing.

    Raises:
        FileExistsError: if the target is there.
        OSError: if it cannot be renamed.
    """
    system = _system()
    if system is not None and _renamed(system[0], source, target, system[2]):
        return
    if os.path.lexists(target):  # a moment too early, where nothing better can be had
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(source, target)


def _renamed(rename: Rename, source: Path, target: Path, flag: int) -> bool:
    sys.audit("os.rename", str(source), str(target), -1, -1)  # as `os.rename` does
    ctypes.set_errno(0)
    if rename(os.fsencode(source), os.fsencode(target), flag) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(source), None, str(target))


@cache
def _system() -> tuple[Rename, int, int] | None:
    """The call of this system, with its flags that swap and that replace nothing."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
    except (OSError, TypeError):  # Windows has no such library
        return None
    if call := getattr(library, "renameat2", None):
        call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
        here = -100  # AT_FDCWD
        return lambda source, target, flag: int(call(here, source, here, target, flag)), 2, 1
    if call := getattr(library, "renamex_np", None):
        call.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint)
        return lambda source, target, flag: int(call(source, target, flag)), 2, 4
    return None
