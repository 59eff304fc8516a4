"""Model of a disk after a power loss, filled by recording the code's own system calls.

At every system call the tree is recorded, and which file or folder was synced. After a power loss

- a folder has the names that it had at some moment since it was last synced. Folders are independent of each other:
  only a sync orders changes of two folders. A rename within a folder is one step.
- a file has the content of its last sync (none, if it was never synced), half of what was written since, or all of
  it.
"""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from tests.robustness.faults import Calls

_scandir, _fstat, _open = os.scandir, os.fstat, open  # the originals, while `faults` patches them

Tree = dict[str, "Tree | bytes"]


class Recorder(Calls):
    """Recorder of the tree under a folder before each call; no other process may change it.

    Files and folders are numbered, as inodes are reused.

    Attributes:
        names: At each moment, for each folder, the number behind each name.
        contents: At each moment, the bytes of each file.
        synced: Moments at which each file or folder was synced.
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
        for number in (*self.names[0], *self.contents[0]):  # what existed before is on disk
            self.synced[number] = [0]

    def note(self, name: str, *arguments: object) -> None:
        super().note(name, *arguments)
        numbers: dict[int, int] = {}
        names: dict[int, dict[str, int]] = {}
        contents: dict[int, bytes] = {}
        self._walk(self.root, self._inode, numbers, names, contents)
        self._numbers = numbers
        self.names.append(names)
        self.contents.append(contents)
        if name == "os.fsync":
            number = numbers.get(_fstat(arguments[0]).st_ino)
            if number is not None:
                self.synced.setdefault(number, []).append(len(self.names) - 1)

    def _walk(self, path, inode, numbers, names, contents) -> int:
        number = numbers.setdefault(inode, self._numbers.get(inode, next(self._fresh)))
        names[number] = {}
        with _scandir(path) as entries:
            for entry in entries:
                inode = entry.inode()
                if entry.is_dir(follow_symlinks=False):
                    names[number][entry.name] = self._walk(entry.path, inode, numbers, names, contents)
                else:
                    file_number = numbers.setdefault(inode, self._numbers.get(inode, next(self._fresh)))
                    names[number][entry.name] = file_number
                    with _open(entry.path, "rb") as file:
                        contents[file_number] = file.read()
        return number

    def moments(self) -> range:
        return range(len(self.names))

    def states(self, moment: int) -> Iterator[Tree]:
        """Yield all trees that may be on disk after a power loss at a moment."""
        yield from self._trees(self._numbers[self._inode], moment)

    def _last_sync(self, number: int, moment: int) -> int | None:
        return max((m for m in self.synced.get(number, []) if m <= moment), default=None)

    def _trees(self, folder: int, moment: int) -> Iterator[Tree]:
        since = self._last_sync(folder, moment)
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
        since = self._last_sync(number, moment)
        written = [contents[number] for contents in self.contents[: moment + 1] if number in contents]
        kept = b"" if since is None else self.contents[since].get(number, b"")
        last = written[-1] if written else kept
        yield from dict.fromkeys((kept, last[: len(last) // 2], last) if last != kept else (kept,))


def put(tree: Tree, folder: Path) -> None:
    """Write a tree to a folder."""
    folder.mkdir()
    for name, node in tree.items():
        if isinstance(node, bytes):
            (folder / name).write_bytes(node)
        else:
            put(node, folder / name)
