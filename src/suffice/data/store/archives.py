"""Read tar and zip archives without unpacking them, and refuse those that try to do harm.

Nothing is written to disk. A member whose name climbs out of the archive, a link, a device, a second member of one
name, one that is encrypted, and one that is larger than it may be are errors that name archive and member.
"""

import bz2
import errno
import gzip
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

LIMIT = 1 << 30
"""Largest member that is read whole, in bytes."""
_HEADER = 1 << 20
"""Largest extension of a tar's header, which is read whole too."""
_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_PACKED: dict[bytes, Callable[[Path], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
"""What opens a packed file, by its first bytes."""


@dataclass(frozen=True)
class Member:
    """A file in an archive: `stream` is open until the next one is asked for."""

    name: str
    size: int
    stream: IO[bytes]
    archive: Path

    def read(self, limit: int = LIMIT) -> bytes:
        """All its bytes, at most `limit` of them."""
        with damage_as_value_error(self.archive):
            return read_bounded(self.stream, limit, f"{self.name} in {self.archive}")


def is_archive(path: Path) -> bool:
    """Whether a file is one that `members` reads, by its first bytes."""
    return path.is_file() and (zipfile.is_zipfile(path) or _is_tar(path))


def members(path: Path) -> Iterator[Member]:
    """The files of a tar (also compressed) or zip archive, or of a folder, in order.

    Raises:
        ValueError: for an archive that is truncated or damaged, or holds what it must not.
    """
    if path.is_dir():
        yield from _of_folder(path)
        return
    with damage_as_value_error(path):
        if zipfile.is_zipfile(path):
            yield from _of_zip(path)
        elif path.is_file() and path.stat().st_size and _is_tar(path):
            yield from _of_tar(path)
        else:
            raise ValueError(f"expected a tar or zip archive, got {path}; it is truncated or something else")


def find_members(path: Path, names: Collection[str], *, packed: bool = False) -> Iterator[tuple[str, Member]]:
    """The files of these names, wherever they lie in an archive or folder, each with its name.

    Args:
        path: the archive or folder.
        names: without folders.
        packed: whether a file may also be packed by gzip, with .gz behind its name; of both the first is taken.

    Raises:
        ValueError: if there is none of a name, or more than one, once all others were given.
    """
    found: dict[str, str] = {}
    for member in members(path):
        full = member.name.removesuffix(".gz") if packed else member.name
        name = PurePosixPath(full).name
        if name in names and name not in found:
            found[name] = full
            yield name, member
        elif name in names and found[name] != full:
            raise ValueError(f"expected one {name} in {path}, got {found[name]} and {full}; give the folder of one")
    missing = sorted(set(names) - set(found))
    if missing:
        raise ValueError(f"expected {', '.join(sorted(names))} in {path}, found no {', '.join(missing)}")


def nested_members(member: Member) -> Iterator[Member]:
    """The files of a tar that is a member of another."""
    where = member.archive / member.name
    with damage_as_value_error(where):
        yield from _files_of(member.stream, where)


def decompressed(member: Member) -> IO[bytes]:
    """A member as it is, or unpacked where its name ends in .gz."""
    return gzip.GzipFile(fileobj=member.stream) if member.name.endswith(".gz") else member.stream  # type: ignore[return-value]


def read_bounded(stream: IO[bytes], limit: int, what: str) -> bytes:
    """All bytes of a stream.

    Raises:
        ValueError: if there are more than `limit`: a decompression bomb, or not what it should be.
    """
    data = stream.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"expected at most {limit:,} bytes, got more in {what}; refused as a decompression bomb")
    return data


@contextmanager
def damage_as_value_error(path: Path) -> Iterator[None]:
    """Turn the many errors of damaged archives into one."""
    try:
        yield
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        struct.error,
        EOFError,
        OverflowError,
        UnicodeDecodeError,
        NotImplementedError,
        gzip.BadGzipFile,
    ) as error:
        raise ValueError(f"expected a whole archive, got a truncated or damaged {path}: {error}") from error
    except OSError as error:
        if type(error) is not OSError or error.errno not in (None, errno.EINVAL):  # EINVAL: a place before the first
            raise
        raise ValueError(f"expected a whole file, got a truncated or damaged {path}: {error}") from error


class _Header(tarfile.TarInfo):
    """The header of a member, whose extensions are no larger than names are."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _EXTENSIONS and self.size > _HEADER:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(archive)  # type: ignore[misc,no-any-return]  # meant to be overridden, says tarfile


def _is_tar(path: Path) -> bool:
    try:
        tarfile.open(path, tarinfo=_Header).close()
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError):
        return False
    return True


def _of_folder(path: Path) -> Iterator[Member]:
    for file in sorted(path.rglob("*")):
        if file.is_file():
            with file.open("rb") as stream:
                yield Member(file.relative_to(path).as_posix(), file.stat().st_size, stream, path)


def _of_zip(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        seen: set[str] = set()
        for info in archive.infolist():
            _check(info.filename, seen, path)
            if stat.S_ISLNK(info.external_attr >> 16):
                raise ValueError(f"expected files, got the link {info.filename} in {path}; refused")
            if info.flag_bits & 1:
                raise ValueError(f"expected files, got the encrypted {info.filename} in {path}; decrypt it first")
            if not info.is_dir():
                with archive.open(info) as stream:
                    yield Member(info.filename, info.file_size, stream, path)


def _of_tar(path: Path) -> Iterator[Member]:
    """Unpacked by modules that check what they unpack, which `tarfile` does not when it reads a stream."""
    with path.open("rb") as stream:
        head = stream.read(6)
    for magic, opener in _PACKED.items():
        if head.startswith(magic):
            with opener(path) as unpacked:
                yield from _files_of(unpacked, path)
            return
    with path.open("rb") as stream:
        yield from _files_of(stream, path)


def _files_of(stream: IO[bytes], shown: Path) -> Iterator[Member]:
    watched = _Watched(stream)
    seen: set[str] = set()
    with tarfile.open(fileobj=watched, mode="r|", tarinfo=_Header) as archive:  # type: ignore[call-overload]
        for info in archive:
            if info.issym() or info.islnk():
                raise ValueError(f"expected files, got the link {info.name} -> {info.linkname} in {shown}; refused")
            if info.isdir():
                continue
            name = info.name.removeprefix("./")
            _check(name, seen, shown)
            if not info.isfile() or info.issparse():
                raise ValueError(f"expected files, got a device, a pipe or holes as {name} in {shown}; refused")
            yield Member(name, info.size, archive.extractfile(info), shown)
        while rest := archive.fileobj.read(1 << 20):
            if rest.strip(b"\0"):
                raise tarfile.ReadError("more behind its end")
    if watched.last.strip(b"\0") or len(watched.last) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("without an end")


class _Watched:
    """A stream whose last block is kept, which the end of a tar fills with zeros."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.last = b""

    def read(self, size: int) -> bytes:
        """Up to so many bytes."""
        data = self.stream.read(size)
        self.last = (self.last + data)[-tarfile.BLOCKSIZE :]
        return data


def _check(name: str, seen: set[str], archive: Path) -> None:
    """Whether a member may be there, after those seen."""
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name.replace("\\", "/")).parts:
        raise ValueError(f"expected names inside the archive, got {name!r} in {archive}; it climbs out, refused")
    if name in seen:
        raise ValueError(f"expected each file once, got a second {name!r} in {archive}; refused")
    seen.add(name)
