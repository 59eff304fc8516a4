"""File-system operations that `os` lacks: exchange two names, rename without replacing, and durable folders.

Linux has `renameat2` (since 3.15; ext4, XFS, Btrfs, tmpfs and others), macOS has `renamex_np` (APFS). Elsewhere
`exchange` returns False, and `rename_new` falls back to a check and `os.rename`.
"""

import ctypes
import errno
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

from suffice.storage.paths import describe_path

_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}
"""Error numbers of a file system (EINVAL, ENOTSUP, EOPNOTSUPP), kernel (ENOSYS) or sandbox (EPERM) without the call."""

_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Error numbers of a file system on which folders cannot be synced."""

Rename = Callable[[bytes, bytes, int], int]
"""Function of source, target and flags that returns 0 or sets `errno`."""


def exchange(first: Path, second: Path) -> bool:
    """Exchange the names of two files or folders of one file system in one atomic step.

    Returns:
        False if the system does not support this; nothing is changed then.

    Raises:
        OSError: If the system supports it and it failed.
    """
    system = _rename_call()
    return system is not None and _rename(system[0], first, second, system[1])


def rename_new(source: Path, target: Path) -> None:
    """Rename a file or folder without replacing anything.

    Raises:
        FileExistsError: If the target exists.
        OSError: If the rename failed.
    """
    system = _rename_call()
    if system is not None and _rename(system[0], source, target, system[2]):
        return
    if os.path.lexists(target):  # another process may create it after this check: no better way on this system
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(source, target)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on disk."""
    if os.name == "nt":  # Windows cannot open folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Wait until everything in a folder is on disk: the files first, then the names of each folder."""
    with os.scandir(path) as entries:
        children = list(entries)
    for child in children:
        if child.is_dir(follow_symlinks=False):
            sync_tree(path / child.name)
        else:
            with open(child.path, "rb+") as stream:
                os.fsync(stream.fileno())
    sync_folder(path)


def make_folders(path: Path) -> None:
    """Create a folder and its missing parents, and wait until their names are on disk.

    Raises:
        NotADirectoryError: If one of them exists and is not a folder.
    """
    missing = []
    while not path.is_dir():
        if os.path.lexists(path):
            raise NotADirectoryError(f"expected a folder, got {describe_path(path)}; choose another path")
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def _rename(rename: Rename, source: Path, target: Path, flags: int) -> bool:
    """Call the system's rename. Returns False if the system does not support the flags."""
    sys.audit("os.rename", str(source), str(target), -1, -1)  # as `os.rename` does
    ctypes.set_errno(0)
    if rename(os.fsencode(source), os.fsencode(target), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(source), None, str(target))


@cache
def _rename_call() -> tuple[Rename, int, int] | None:
    """Return the system's rename with its flags for exchanging names and for replacing nothing, or None."""
    try:
        library = ctypes.CDLL(None, use_errno=True)
    except (OSError, TypeError):  # on Windows
        return None
    if call := getattr(library, "renameat2", None):
        call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
        current = -100  # AT_FDCWD
        return lambda source, target, flags: int(call(current, source, current, target, flags)), 2, 1
    if call := getattr(library, "renamex_np", None):
        call.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint)
        return lambda source, target, flags: int(call(source, target, flags)), 2, 4
    return None
