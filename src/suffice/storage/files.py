"""Atomic writes of a folder or a file: after a crash at any moment, the old or the new version is there, complete.

New content is written to a hidden path beside the target (`suffice.storage.paths`), synced to disk, and takes the
target's place in one step (`suffice.storage.filesystem`). One writer of a target is active at a time
(`suffice.storage.locks`); the next writer removes what a killed one has left.
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

from suffice.storage import filesystem, oserrors, paths, reading
from suffice.storage.locks import locked
from suffice.storage.paths import describe_path
from suffice.utils.text import printable

ADVICE = "choose another path"

_MARK_BYTES = 4096
"""Number of bytes at the start of a file that are searched for its mark."""

OwnedPaths = Callable[[Path], list[str]]
"""Function that lists everything in a folder, as `manifests.owned_paths` does.

It raises a FileExistsError if the folder holds anything that suffice did not write.
"""


@contextmanager
def atomic_folder(
    path: str | os.PathLike[str], owned_paths: OwnedPaths, *, wait: bool = True, advice: str = ADVICE
) -> Iterator[Path]:
    """Yield a temporary folder that replaces `path` at the end of the block, or is removed if the block fails.

    Args:
        path: Folder to write. If it is a link, the link stays and its destination is replaced.
        owned_paths: Function that lists the paths in an existing folder that may be replaced.
        wait: Wait for another writer instead of raising an error.
        advice: Remedy, for the messages of errors.

    Raises:
        FileExistsError: If something that suffice did not write is in the way.
        BlockingIOError: If another writer is active and `wait` is False.
        OSError: If the folder cannot be written, or the disk is full.
    """
    with lock_target(path, wait=wait, advice=advice) as target, target.atomic_folder(owned_paths) as temporary:
        yield temporary


def atomic_write(path: str | os.PathLike[str], payload: bytes, mark: bytes = b"") -> None:
    """Write a file so that the old or the new content is there, complete, whatever happens.

    Args:
        path: File to write. If it is a link, the link stays and its destination is replaced.
        payload: Content of the file.
        mark: Bytes among the first of the file. An existing file without them is not replaced.

    Raises:
        FileExistsError: If something that suffice did not write is in the way.
        OSError: If the file cannot be written, or the disk is full.
    """
    with lock_target(path) as target, target.atomic_file(mark) as stream, target.explain_errors():
        stream.write(payload)


def check_replaceable(path: str | os.PathLike[str], mark: bytes = b"") -> None:
    """Raise a FileExistsError if `atomic_write` would refuse to write to the path."""
    Target(paths.resolve(path), ADVICE).has_file(mark)


@contextmanager
def lock_target(
    path: str | os.PathLike[str], *, wait: bool = True, parents: bool = True, advice: str = ADVICE
) -> Iterator["Target"]:
    """Lock a path for writing and yield it as a `Target`.

    Args:
        path: Folder or file to write.
        wait: Wait for another writer instead of raising an error.
        parents: Create missing parent folders instead of raising a FileNotFoundError.
        advice: Remedy, for the messages of errors.

    Raises:
        FileExistsError: If the path is a broken link.
        BlockingIOError: If another writer is active and `wait` is False.
        OSError: If the path cannot be written, or the disk is full.
    """
    target = Target(paths.resolve(path), advice)
    with oserrors.explain_disk_full(target.path.parent, advice), ExitStack() as stack:
        with target.explain_errors():
            if not target.path.name:
                raise FileExistsError(f"expected a new path, got {printable(target.path)}; {advice}")
            if parents:
                filesystem.make_folders(target.path.parent)
            os.stat(target.path.parent)  # raises if it is missing; `filelock` would create it
            stack.enter_context(locked(target.path, wait))
            target.recover()
        yield target


@dataclass(frozen=True)
class Target:
    """Path that is locked for writing.

    Attributes:
        path: Absolute path without links.
        advice: Remedy, for the messages of errors.
    """

    path: Path
    advice: str

    @contextmanager
    def atomic_folder(self, owned_paths: OwnedPaths) -> Iterator[Path]:
        """Yield a temporary folder that replaces the target at the end of the block, or is removed if it fails.

        Raises:
            FileExistsError: If something that suffice did not write is in the way.
        """
        temporary = paths.temporary_path(self.path)
        with self.explain_errors():
            self._list_owned(owned_paths)  # before the work, and again after it
            temporary.mkdir()
        try:
            yield temporary
            with self.explain_errors():
                filesystem.sync_tree(temporary)
                old_paths = self._list_owned(owned_paths)
                old_folder = self._install(temporary, is_new=old_paths is None)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        with self.explain_errors():
            filesystem.sync_folder(self.path.parent)  # if it fails, the old folder stays until the next write
        if old_paths is not None:
            self._remove_old(old_folder, old_paths)

    @contextmanager
    def atomic_file(self, mark: bytes = b"") -> Iterator[BinaryIO]:
        """Yield a stream to a file that replaces the target at the end of the block, or is removed if it fails.

        Raises:
            FileExistsError: If the target exists and is not a file, or is a file without the mark.
        """
        temporary = paths.temporary_path(self.path)
        with self.explain_errors():
            exists = self.has_file(mark)
            stream = temporary.open("xb")
        try:
            yield stream
            with self.explain_errors():
                stream.flush()
                os.fsync(stream.fileno())
                stream.close()
                (os.replace if exists else filesystem.rename_new)(temporary, self.path)
        except BaseException:
            with suppress(OSError):
                stream.close()
            with suppress(OSError):
                temporary.unlink()
            raise
        with self.explain_errors():
            filesystem.sync_folder(self.path.parent)

    def explain_errors(self) -> AbstractContextManager[None]:
        """Return a context manager that adds the target to errors of the operating system."""
        return oserrors.explain_os_errors(self.path, self.advice)

    def recover(self) -> None:
        """Restore the old folder after a crash between two renames, and remove what killed writers have left."""
        backup = paths.backup_path(self.path)
        if backup.is_dir() and not backup.is_symlink() and not os.path.lexists(self.path):
            filesystem.rename_new(backup, self.path)
            filesystem.sync_folder(self.path.parent)
        for leftover in (backup, *paths.leftover_paths(self.path)):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)  # it refuses links
            elif leftover.is_file():
                with suppress(OSError):
                    leftover.unlink()

    def has_file(self, mark: bytes) -> bool:
        """Return whether the target is a file that may be replaced; False if nothing is there.

        Raises:
            FileExistsError: If the target exists and is not a file, or is a file without the mark.
        """
        if not os.path.lexists(self.path):
            return False
        mode = os.lstat(self.path).st_mode
        if not stat.S_ISREG(mode):
            raise FileExistsError(
                f"expected a new path or a file to replace, got {describe_path(self.path)}; {self.advice}"
            )
        if mark:
            with reading.open_file(self.path) as stream:
                if mark not in stream.read(_MARK_BYTES):
                    raise FileExistsError(
                        f"expected a new path or a file to replace, got {printable(self.path)}, which suffice "
                        f"did not write; {self.advice}"
                    )
        return True

    def _list_owned(self, owned_paths: OwnedPaths) -> list[str] | None:
        return owned_paths(self.path) if os.path.lexists(self.path) else None

    def _install(self, new_folder: Path, is_new: bool) -> Path:
        """Rename a new folder to the target, and return the path of the old one."""
        if is_new:
            filesystem.rename_new(new_folder, self.path)
            return new_folder
        if filesystem.exchange(new_folder, self.path):
            return new_folder
        backup = paths.backup_path(self.path)
        os.rename(self.path, backup)
        try:
            os.rename(new_folder, self.path)
        except BaseException:
            os.rename(backup, self.path)
            raise
        return backup

    def _remove_old(self, old_folder: Path, old_paths: list[str]) -> None:
        """Remove the listed paths of the old folder, and move files that were added since into the new one."""
        with suppress(OSError):
            for path in reversed(old_paths):
                (os.rmdir if path.endswith("/") else os.unlink)(old_folder / path)
        with suppress(OSError):
            for name in os.listdir(old_folder):
                if not {name, f"{name}/"} & set(old_paths) and not re.fullmatch(paths.SYSTEM_FILES, name):
                    filesystem.rename_new(old_folder / name, self.path / name)
            os.rmdir(old_folder)
