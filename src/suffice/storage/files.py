"""Two verbs after which the old or the new is there, whole, whatever happens meanwhile: for a folder, and for a file.

What is written goes into a hidden name beside its place (`suffice.storage.places`), is synced to disk, and takes the
place in one step (`suffice.storage.exchange`). One writer of a place is at work at a time (`suffice.storage.locks`);
what a dead one left is removed by the next.
"""

import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from suffice.storage import exchange, oserrors, places, reading, syncing
from suffice.storage.locks import locked
from suffice.storage.places import described, shown

ADVICE = "choose another path"
_BEGINNING = 4096
"""Bytes of a file among which its mark is."""

Owned = Callable[[Path], list[str]]
"""Paths of all that is in a folder, as `manifests.owned` has them; a FileExistsError where not all of it is ours."""


@contextmanager
def whole(path: str | os.PathLike[str], owned: Owned, *, wait: bool = True, advice: str = ADVICE) -> Iterator[Path]:
    """A temporary folder that takes the place of `path` at the end of the block, or vanishes if it fails.

    Args:
        path: of the folder; a link is written through, and stays.
        owned: lists the folder that is there, if it is ours.
        wait: for another writer.
        advice: what to do if it cannot be written.

    Raises:
        FileExistsError: if something is there that is not all ours.
        BlockingIOError: unless it waits: if somebody else is writing there.
        OSError: if it cannot be written, or the disk is full.
    """
    with alone(path, wait=wait, advice=advice) as place, place.folder(owned) as temporary:
        yield temporary


def write(path: str | os.PathLike[str], payload: bytes, mark: bytes = b"") -> None:
    """Write a file: the old one or the new one is there, whole.

    Args:
        path: of the file; a link is written through, and stays.
        payload: its bytes.
        mark: what a file of ours has among its first bytes; one without it is not replaced.

    Raises:
        FileExistsError: if something else is there.
        OSError: if it cannot be written, or the disk is full.
    """
    with alone(path) as place, place.file(mark) as stream, place.said():
        stream.write(payload)


def check(path: str | os.PathLike[str], mark: bytes = b"") -> None:
    """Raise a FileExistsError if something is there that `write` would not replace."""
    Place(places.resolved(path), ADVICE).replaces(mark)


@contextmanager
def alone(
    path: str | os.PathLike[str], *, wait: bool = True, parents: bool = True, advice: str = ADVICE
) -> Iterator["Place"]:
    """The place that a path leads to, while no other writer is there.

    Args:
        path: of a folder or a file.
        wait: for another writer.
        parents: make folders that are missing above it; if not, that is a FileNotFoundError.
        advice: what to do if it cannot be written.

    Raises:
        FileExistsError: for a link that leads nowhere.
        BlockingIOError: unless it waits: if somebody else is writing there.
        OSError: if it cannot be written, or the disk is full.
    """
    place = Place(places.resolved(path), advice)
    with oserrors.disk_full_is_said(place.path.parent, advice), ExitStack() as held:
        with place.said():
            if not place.path.name:
                raise FileExistsError(f"expected a new path, got {shown(place.path)}; {advice}")
            if parents:
                syncing.make(place.path.parent)
            os.stat(place.path.parent)  # the lock would make a folder that was removed
            held.enter_context(locked(place.path, wait))
            place.recover()
        yield place


@dataclass(frozen=True)
class Place:
    """Where something is written.

    Attributes:
        path: without links.
        advice: what to do if it cannot be written.
    """

    path: Path
    advice: str

    @contextmanager
    def folder(self, owned: Owned) -> Iterator[Path]:
        """A temporary folder that takes the place at the end of the block, or vanishes if it fails.

        Raises:
            FileExistsError: if something is there that is not all ours.
        """
        temporary = places.fresh(self.path)
        with self.said():
            self._ours(owned)  # before the work, and again after it
            temporary.mkdir()
        try:
            yield temporary
            with self.said():
                syncing.tree(temporary)
                ours = self._ours(owned)
                old = self._take(temporary, first=ours is None)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        with self.said():
            syncing.folder(self.path.parent)  # if it fails, the old folder stays beside until the next write
        if ours is not None:
            self._retire(old, ours)

    @contextmanager
    def file(self, mark: bytes = b"") -> Iterator[BinaryIO]:
        """A stream into a file that takes the place at the end of the block, or vanishes if it fails.

        Raises:
            FileExistsError: if something is there that is no file, or one without the mark.
        """
        temporary = places.fresh(self.path)
        with self.said():
            there = self.replaces(mark)
            stream = temporary.open("xb")
        try:
            yield stream
            with self.said():
                stream.flush()
                os.fsync(stream.fileno())
                stream.close()
                (os.replace if there else exchange.rename_new)(temporary, self.path)
        except BaseException:
            with suppress(OSError):
                stream.close()
            with suppress(OSError):
                temporary.unlink()
            raise
        with self.said():
            syncing.folder(self.path.parent)

    def said(self) -> AbstractContextManager[None]:
        """Name the place in errors of the system."""
        return oserrors.said(self.path, self.advice)

    def recover(self) -> None:
        """Put back what a crash took out of its place, and remove what dead writers left beside it."""
        old = places.aside(self.path)
        if old.is_dir() and not old.is_symlink() and not os.path.lexists(self.path):
            exchange.rename_new(old, self.path)
            syncing.folder(self.path.parent)
        for left in (old, *places.leftovers(self.path)):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)  # which leaves links alone
            elif left.is_file():
                with suppress(OSError):
                    left.unlink()

    def _ours(self, owned: Owned) -> list[str] | None:
        return owned(self.path) if os.path.lexists(self.path) else None

    def replaces(self, mark: bytes) -> bool:
        """Whether there is a file to replace, and not nothing.

        Raises:
            FileExistsError: if something is there that is no file, or one without the mark.
        """
        if not os.path.lexists(self.path):
            return False
        mode = os.lstat(self.path).st_mode
        if not stat.S_ISREG(mode):
            raise FileExistsError(
                f"expected a new path or a file to replace, got {described(self.path)}; {self.advice}"
            )
        if mark:
            with reading.open_file(self.path) as stream:
                if mark not in stream.read(_BEGINNING):
                    raise FileExistsError(
                        f"expected a new path, or a file of ours to replace, got {shown(self.path)}, which suffice did "
                        f"not write; {self.advice}"
                    )
        return True

    def _take(self, new: Path, first: bool) -> Path:
        """Put a new folder in the place, and return where the old one is now."""
        if first:
            exchange.rename_new(new, self.path)
            return new
        if exchange.exchange(new, self.path):
            return new
        old = places.aside(self.path)
        os.rename(self.path, old)
        try:
            os.rename(new, self.path)
        except BaseException:
            os.rename(old, self.path)
            raise
        return old

    def _retire(self, old: Path, ours: list[str]) -> None:
        """Remove of the old folder what was ours; what came into it since goes on into the new one."""
        with suppress(OSError):
            for path in reversed(ours):
                (os.rmdir if path.endswith("/") else os.unlink)(old / path)
        with suppress(OSError):
            for name in os.listdir(old):
                if not {name, f"{name}/"} & set(ours) and not re.fullmatch(places.NOBODYS, name):
                    exchange.rename_new(old / name, self.path / name)
            os.rmdir(old)
