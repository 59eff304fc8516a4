"""Where a path leads, how it is shown, and the hidden names beside it while it is being written.

Beside NAME there are, at most: `.NAME.suffice-lock` while somebody writes, `.NAME.suffice-` and 16 digits for what is
being written, and `.NAME.suffice-old` for what was there, for a moment, where two names cannot be swapped in one step.
A hidden name that is not exactly such is somebody else's.
"""

import hashlib
import os
import re
import stat
import uuid
from pathlib import Path

from suffice.utils.text import printable

NOBODYS = r"\.DS_Store|Thumbs\.db|desktop\.ini|\.nfs[0-9a-f]+"
"""Names of what file managers and network file systems make by themselves in any folder."""
_LONGEST = 180
"""Bytes of a name to which more are added; file systems take 255."""

_KINDS = {
    stat.S_ISDIR: "folder",
    stat.S_ISFIFO: "FIFO",
    stat.S_ISSOCK: "socket",
    stat.S_ISCHR: "device",
    stat.S_ISBLK: "device",
}


def shown(path: str | os.PathLike[str]) -> str:
    """A path for a message: what cannot be printed, bytes that are no UTF-8 among it, is escaped."""
    return printable(os.fspath(path))


def described(path: str | os.PathLike[str]) -> str:
    """A path for a message, with what is there if that is no folder."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        if os.path.islink(path):
            return f"the link {shown(path)}, which leads to {shown(os.readlink(path))}, where nothing is"
        return shown(path)
    return shown(path) if stat.S_ISDIR(mode) else f"the {kind(mode)} {shown(path)}"


def kind(mode: int) -> str:
    """What something is, by the mode that `stat` gives it."""
    return next((name for test, name in _KINDS.items() if test(mode)), "file")


def resolved(path: str | os.PathLike[str]) -> Path:
    """Where something is to be written: a link is written through, and stays.

    Raises:
        ValueError: for an empty path.
        FileExistsError: for a link, or one among the folders above, that leads nowhere.
    """
    if not os.fspath(path):
        raise ValueError("expected a path, got an empty one")
    for place in (Path(path), *Path(path).parents):
        if os.path.islink(place) and not os.path.exists(place):
            raise FileExistsError(
                f"expected a path that can be written to, got {described(place)}; remove the link, or choose another "
                "path"
            )
    return Path(os.path.realpath(path))


def lock(target: Path) -> Path:
    """The name that is locked while somebody writes the target."""
    return _hidden(target, "lock")


def aside(target: Path) -> Path:
    """The name of the old folder, where the new one cannot take its place in one step."""
    return _hidden(target, "old")


def fresh(target: Path) -> Path:
    """A new name for what will take the place of the target."""
    return _hidden(target, uuid.uuid4().hex[:16])


def leftovers(target: Path) -> list[Path]:
    """What `fresh` named, and is still there."""
    start = _hidden(target, "").name
    names = (name for name in os.listdir(target.parent) if name.startswith(start))
    return [target.with_name(name) for name in names if re.fullmatch("[0-9a-f]{16}", name.removeprefix(start))]


def _hidden(target: Path, tail: str) -> Path:
    name = target.name
    if len(os.fsencode(name)) > _LONGEST:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return target.with_name(f".{name}.suffice-{tail}")
