"""Path resolution, printable paths, and the hidden names beside a path while it is being written.

Beside NAME there are at most three hidden files or folders:

- `.NAME.suffice-lock` while a writer holds the lock;
- `.NAME.suffice-` and 16 hexadecimal digits, the new content while it is being written;
- `.NAME.suffice-old`, the previous folder for a moment, where the system cannot exchange two names in one step.

A hidden name of any other form is never touched.
"""

import hashlib
import os
import re
import stat
import uuid
from pathlib import Path

from suffice.utils.text import printable

SYSTEM_FILES = r"\.DS_Store|Thumbs\.db|desktop\.ini|\.nfs[0-9a-f]+"
"""Pattern of the files that file managers and network file systems create by themselves in any folder."""

_MAX_NAME_BYTES = 180
"""Longest file name, in bytes, that still has room for a suffix; file systems allow 255."""

_FILE_TYPES = {
    stat.S_ISDIR: "folder",
    stat.S_ISFIFO: "FIFO",
    stat.S_ISSOCK: "socket",
    stat.S_ISCHR: "device",
    stat.S_ISBLK: "device",
}


def describe_path(path: str | os.PathLike[str]) -> str:
    """Return a path for a message, preceded by its file type unless it is a folder or missing."""
    text = printable(os.fspath(path))
    try:
        mode = os.stat(path).st_mode
    except OSError:
        if os.path.islink(path):
            return f"the link {text}, which points to {printable(os.readlink(path))}, which does not exist"
        return text
    return text if stat.S_ISDIR(mode) else f"the {file_type(mode)} {text}"


def file_type(mode: int) -> str:
    """Return the name of the file type in a mode from `os.stat`: "file", "folder", "FIFO", "socket" or "device"."""
    return next((name for is_type, name in _FILE_TYPES.items() if is_type(mode)), "file")


def resolve(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path to write to, with links followed.

    Raises:
        ValueError: If the path is empty.
        FileExistsError: If the path, or a folder above it, is a broken link.
    """
    if not os.fspath(path):
        raise ValueError("expected a path, got an empty one")
    for part in (Path(path), *Path(path).parents):
        if os.path.islink(part) and not os.path.exists(part):
            raise FileExistsError(
                f"expected a path that can be written to, got {describe_path(part)}; remove the link, or choose "
                "another path"
            )
    return Path(os.path.realpath(path))


def lock_path(target: Path) -> Path:
    """Return the path of the file that is locked while the target is being written."""
    return _hidden_path(target, "lock")


def backup_path(target: Path) -> Path:
    """Return the path of the previous folder while it is replaced in two steps."""
    return _hidden_path(target, "old")


def temporary_path(target: Path) -> Path:
    """Return a new random path for content that will replace the target."""
    return _hidden_path(target, uuid.uuid4().hex[:16])


def leftover_paths(target: Path) -> list[Path]:
    """List the existing files and folders that `temporary_path` has named for the target."""
    start = _hidden_path(target, "").name
    names = (name for name in os.listdir(target.parent) if name.startswith(start))
    return [target.with_name(name) for name in names if re.fullmatch("[0-9a-f]{16}", name.removeprefix(start))]


def _hidden_path(target: Path, suffix: str) -> Path:
    name = target.name
    if len(os.fsencode(name)) > _MAX_NAME_BYTES:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return target.with_name(f".{name}.suffice-{suffix}")
