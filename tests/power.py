"""What may be on a disk after the power went: an abstract file system, filled by what the code really does.

At every call of the system the tree is noted, and which file or folder was synced. After a cut at some moment

- a folder has the names that it had at some moment since it was last synced (each folder by itself: nothing but a
  sync orders two of them; a rename within a folder is one step);
- a file has the contents that it had when it was last synced (none, if it never was), half of what was written since,
  or all of it.
"""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from tests.faults import Calls

_scandir, _fstat, _open = os.scandir, os.fstat, open  # as they are when others are counted

Tree = dict[str, "Tree | bytes"]


class Recorder(Calls):
    """Notes the tree under a folder before each call; nothing else may change it meanwhile.

    Attributes:
        names: at each moment, by folder, names to what they lead to; both are numbers of our own.
        contents: at each moment, by file.
        synced: by file or folder, the moments at which it was synced.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(1 << 60, lambda: None)
        self.root, self._inode = str(root), os.stat(root).st_ino
        self.names: list[dict[int, dict[str, int]]] = []
        self.contents: list[dict[int, bytes]] = []
        self.synced: dict[int, list[int]] = {}
        self._numbers: dict[int, int] = {}
        self._fresh = itertools.count()
        self.note("start")
        for number in (*self.names[0], *self.contents[0]):  # all that was there before was on disk
            self.synced[number] = [0]

    def note(self, name: str, *arguments: object) -> None:
        super().note(name, *arguments)
        there: dict[int, int] = {}
        names: dict[int, dict[str, int]] = {}
        contents: dict[int, bytes] = {}
        self._walk(self.root, self._inode, there, names, contents)
        self._numbers = there
        self.names.append(names)
        self.contents.append(contents)
        if name == "os.fsync":
            number = there.get(_fstat(arguments[0]).st_ino)
            if number is not None:
                self.synced.setdefault(number, []).append(len(self.names) - 1)

    def _walk(self, path, inode, there, names, contents) -> int:
        number = there.setdefault(inode, self._numbers.get(inode, next(self._fresh)))
        names[number] = {}
        with _scandir(path) as entries:
            for entry in entries:
                found = entry.inode()
                if entry.is_dir(follow_symlinks=False):
                    names[number][entry.name] = self._walk(entry.path, found, there, names, contents)
                else:
                    own = there.setdefault(found, self._numbers.get(found, next(self._fresh)))
                    names[number][entry.name] = own
                    with _open(entry.path, "rb") as file:
                        contents[own] = file.read()
        return number

    def moments(self) -> range:
        return range(len(self.names))

    def states(self, moment: int) -> Iterator[Tree]:
        """All trees that may be on disk after a cut then."""
        yield from self._trees(self._numbers[self._inode], moment)

    def _since(self, number: int, moment: int) -> int | None:
        return max((m for m in self.synced.get(number, []) if m <= moment), default=None)

    def _trees(self, folder: int, moment: int) -> Iterator[Tree]:
        since = self._since(folder, moment)
        listings = [{}] if since is None else []
        for names in self.names[since or 0 : moment + 1]:
            if folder in names and names[folder] not in listings:
                listings.append(names[folder])
        for listing in listings:
            variants = [list(self._variants(number, moment)) for number in listing.values()]
            for chosen in itertools.product(*variants):
                yield dict(zip(listing, chosen, strict=True))

    def _variants(self, number: int, moment: int) -> Iterator["Tree | bytes"]:
        if any(number in names for names in self.names):
            yield from self._trees(number, moment)
            return
        since = self._since(number, moment)
        written = [contents[number] for contents in self.contents[: moment + 1] if number in contents]
        kept = b"" if since is None else self.contents[since].get(number, b"")
        last = written[-1] if written else kept
        yield from dict.fromkeys((kept, last[: len(last) // 2], last) if last != kept else (kept,))


def put(tree: Tree, folder: Path) -> None:
    """Make a tree of files."""
    folder.mkdir()
    for name, what in tree.items():
        if isinstance(what, bytes):
            (folder / name).write_bytes(what)
        else:
            put(what, folder / name)
