"""Read tar and zip archives without unpacking them, and refuse those that try to do harm.

Nothing is written to disk. A member whose name climbs out of the archive, a link, and a member larger than it may
be are errors that name archive and member.
"""

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

LIMIT = 1 << 30
"""Largest member that is read whole, in bytes."""


@dataclass(frozen=True)
class Member:
    """A file in an archive: `stream` is open until the next one is asked for."""

    name: str
    size: int
    stream: IO[bytes]
    archive: Path

    def read(self, limit: int = LIMIT) -> bytes:
        """All its bytes, at most `limit` of them."""
        with damage_is_said(self.archive):
            return bounded(self.stream, limit, f"{self.name} in {self.archive}")


def is_archive(path: Path) -> bool:
    """Whether a file is one that `members` reads, by its first bytes."""
    return path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))


def members(path: Path) -> Iterator[Member]:
    """The files of a tar (also compressed) or zip archive, or of a folder, in order.

    Raises:
        ValueError: for an archive that is truncated or damaged, a name that climbs, or a link.
    """
    if path.is_dir():
        yield from _of_folder(path)
        return
    with damage_is_said(path):
        if zipfile.is_zipfile(path):
            yield from _of_zip(path)
        elif path.is_file() and path.stat().st_size and tarfile.is_tarfile(path):
            yield from _of_tar(path, path)
        else:
            raise ValueError(f"expected a tar or zip archive, got {path}; it is truncated or something else")


def nested(member: Member) -> Iterator[Member]:
    """The files of a tar that is a member of another."""
    where = member.archive / member.name
    with damage_is_said(where), tarfile.open(fileobj=member.stream, mode="r|") as tar:
        yield from _files_of(tar, where)


def gunzipped(member: Member) -> IO[bytes]:
    """A member as it is, or unpacked where its name ends in .gz."""
    return gzip.GzipFile(fileobj=member.stream) if member.name.endswith(".gz") else member.stream  # type: ignore[return-value]


def bounded(stream: IO[bytes], limit: int, what: str) -> bytes:
    """All bytes of a stream.

    Raises:
        ValueError: if there are more than `limit`: a decompression bomb, or not what it should be.
    """
    data = stream.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"expected at most {limit:,} bytes, got more in {what}; refused as a decompression bomb")
    return data


@contextmanager
def damage_is_said(path: Path) -> Iterator[None]:
    """Turn the many errors of damaged archives into one."""
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"expected a whole archive, got a truncated or damaged {path}: {error}") from error


def _of_folder(path: Path) -> Iterator[Member]:
    for file in sorted(path.rglob("*")):
        if file.is_file():
            with file.open("rb") as stream:
                yield Member(file.relative_to(path).as_posix(), file.stat().st_size, stream, path)


def _of_zip(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            _check(info.filename, path)
            if not info.is_dir():
                with archive.open(info) as stream:
                    yield Member(info.filename, info.file_size, stream, path)


def _of_tar(path: Path, shown: Path) -> Iterator[Member]:
    with tarfile.open(path, mode="r|*") as archive:
        yield from _files_of(archive, shown)


def _files_of(archive: tarfile.TarFile, shown: Path) -> Iterator[Member]:
    for info in archive:
        _check(info.name, shown)
        if info.issym() or info.islnk():
            raise ValueError(f"expected files, got the link {info.name} -> {info.linkname} in {shown}; refused")
        stream = archive.extractfile(info) if info.isfile() else None
        if stream is not None:
            yield Member(info.name.removeprefix("./"), info.size, stream, shown)


def _check(name: str, archive: Path) -> None:
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name.replace("\\", "/")).parts:
        raise ValueError(f"expected names inside the archive, got {name!r} in {archive}; it climbs out, refused")
