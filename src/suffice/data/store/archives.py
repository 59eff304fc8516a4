"""Read tar and zip archives without unpacking them to disk, and refuse malicious ones.

Paths outside the archive, links, devices, duplicate names, encrypted members and members above a size limit are errors
that name the archive and the member.
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
"""Largest member that is read into memory, in bytes."""
_HEADER = 1 << 20
"""Largest extension of a tar header, in bytes; it is read into memory too."""
_EXTENSIONS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_DECOMPRESSORS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
"""Functions that open a compressed file, by its first bytes."""


@dataclass(frozen=True)
class Member:
    """File in an archive.

    Attributes:
        name: Path in the archive.
        size: Size in bytes, as the archive states it.
        stream: Contents; open until the next member is read.
        archive: Path of the archive.
    """

    name: str
    size: int
    stream: IO[bytes]
    archive: Path

    def read(self, limit: int = LIMIT) -> bytes:
        """Return all its bytes, and raise a ValueError if there are more than `limit`."""
        with damage_as_value_error(self.archive):
            return read_bounded(self.stream, limit, f"{self.name} in {self.archive}")


def is_archive(path: Path) -> bool:
    """Return whether a path is a tar or zip archive."""
    return path.is_file() and (zipfile.is_zipfile(path) or _is_tar(path))


def members(path: Path) -> Iterator[Member]:
    """Yield the files of a tar (also compressed) or zip archive, or of a folder, in order.

    Raises:
        ValueError: If the archive is truncated or damaged, or has a forbidden member.
    """
    if path.is_dir():
        yield from _folder_members(path)
        return
    with damage_as_value_error(path):
        if zipfile.is_zipfile(path):
            yield from _zip_members(path)
        elif path.is_file() and path.stat().st_size and _is_tar(path):
            yield from _tar_members(path)
        else:
            raise ValueError(f"expected a tar or zip archive, got {path}; it is truncated or of another type")


def find_members(path: Path, names: Collection[str], *, packed: bool = False) -> Iterator[tuple[str, Member]]:
    """Yield the files of these names, in any folder of an archive or folder, as pairs (name, member).

    Args:
        path: The archive or folder.
        names: File names without folders.
        packed: Also accept files compressed by gzip, with the suffix .gz; the first of both is used.

    Raises:
        ValueError: After the last file, if a name is missing; if a name occurs in two folders.
    """
    paths: dict[str, str] = {}
    for member in members(path):
        full = member.name.removesuffix(".gz") if packed else member.name
        name = PurePosixPath(full).name
        if name in names and name not in paths:
            paths[name] = full
            yield name, member
        elif name in names and paths[name] != full:
            raise ValueError(f"expected one {name} in {path}, got {paths[name]} and {full}; pass the folder of one")
    missing = sorted(set(names) - set(paths))
    if missing:
        raise ValueError(f"expected {', '.join(sorted(names))} in {path}, found no {', '.join(missing)}")


def nested_members(member: Member) -> Iterator[Member]:
    """Yield the files of a tar archive that is a member of another archive."""
    where = member.archive / member.name
    with damage_as_value_error(where):
        yield from _stream_members(member.stream, where)


def decompressed(member: Member) -> IO[bytes]:
    """Return the contents of a member, decompressed if its name ends in .gz."""
    return gzip.GzipFile(fileobj=member.stream) if member.name.endswith(".gz") else member.stream  # type: ignore[return-value]


def read_bounded(stream: IO[bytes], limit: int, what: str) -> bytes:
    """Return all bytes of a stream.

    Raises:
        ValueError: If there are more than `limit`, as in a decompression bomb.
    """
    data = stream.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"expected at most {limit:,} bytes, got more in {what}; refused as a decompression bomb")
    return data


@contextmanager
def damage_as_value_error(path: Path) -> Iterator[None]:
    """Convert the various errors of damaged archives to a ValueError that names the file."""
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
        if type(error) is not OSError or error.errno not in (None, errno.EINVAL):  # EINVAL: seek before the start
            raise
        raise ValueError(f"expected a whole file, got a truncated or damaged {path}: {error}") from error


class _Header(tarfile.TarInfo):
    """Tar header whose extensions are limited in size, since they are read into memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _EXTENSIONS and self.size > _HEADER:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(archive)  # type: ignore[misc,no-any-return]  # documented as a hook


def _is_tar(path: Path) -> bool:
    try:
        tarfile.open(path, tarinfo=_Header).close()
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError):
        return False
    return True


def _folder_members(path: Path) -> Iterator[Member]:
    for file in sorted(path.rglob("*")):
        if file.is_file():
            with file.open("rb") as stream:
                yield Member(file.relative_to(path).as_posix(), file.stat().st_size, stream, path)


def _zip_members(path: Path) -> Iterator[Member]:
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


def _tar_members(path: Path) -> Iterator[Member]:
    """Yield the files of a tar; decompressed by modules that verify checksums, unlike `tarfile` in stream mode."""
    with path.open("rb") as stream:
        head = stream.read(6)
    for magic, opener in _DECOMPRESSORS.items():
        if head.startswith(magic):
            with opener(path) as unpacked:
                yield from _stream_members(unpacked, path)
            return
    with path.open("rb") as stream:
        yield from _stream_members(stream, path)


def _stream_members(stream: IO[bytes], shown: Path) -> Iterator[Member]:
    last_block_stream = _LastBlockStream(stream)
    seen: set[str] = set()
    with tarfile.open(fileobj=last_block_stream, mode="r|", tarinfo=_Header) as archive:  # type: ignore[call-overload]
        for info in archive:
            if info.issym() or info.islnk():
                raise ValueError(f"expected files, got the link {info.name} -> {info.linkname} in {shown}; refused")
            if info.isdir():
                continue
            name = info.name.removeprefix("./")
            _check(name, seen, shown)
            if not info.isfile() or info.issparse():
                raise ValueError(f"expected files, got a device, a pipe or a sparse file as {name} in {shown}; refused")
            yield Member(name, info.size, archive.extractfile(info), shown)
        while rest := archive.fileobj.read(1 << 20):
            if rest.strip(b"\0"):
                raise tarfile.ReadError("data after its end")
    if last_block_stream.last.strip(b"\0") or len(last_block_stream.last) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("no end marker")


class _LastBlockStream:
    """Stream that keeps its last block, which is all zeros at the end of a complete tar."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.last = b""

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes."""
        data = self.stream.read(size)
        self.last = (self.last + data)[-tarfile.BLOCKSIZE :]
        return data


def _check(name: str, seen: set[str], archive: Path) -> None:
    """Raise a ValueError if a member's name leaves the archive or was seen before; else add it to `seen`."""
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name.replace("\\", "/")).parts:
        raise ValueError(f"expected names inside the archive, got {name!r} in {archive}; it points outside, refused")
    if name in seen:
        raise ValueError(f"expected each file once, got a second {name!r} in {archive}; refused")
    seen.add(name)
