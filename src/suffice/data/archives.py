"""Read tar and zip archives without unpacking them, and refuse those that try to do harm.

Nothing is written to disk. A member whose name climbs out of the archive, a link, a device, a second member of one
name, one that is encrypted, and one that is larger than it may be are errors that name archive and member.
"""

import gzip
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

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
    return path.is_file() and (zipfile.is_zipfile(path) or _is_tar(path))


def members(path: Path) -> Iterator[Member]:
    """The files of a tar (also compressed) or zip archive, or of a folder, in order.

    Raises:
        ValueError: for an archive that is truncated or damaged, or holds what it must not.
    """
    if path.is_dir():
        yield from _of_folder(path)
        return
    with damage_is_said(path):
        if zipfile.is_zipfile(path):
            yield from _of_zip(path)
        elif path.is_file() and path.stat().st_size and _is_tar(path):
            yield from _of_tar(path, path)
        else:
            raise ValueError(f"expected a tar or zip archive, got {path}; it is truncated or something else")


def named(path: Path, names: Collection[str], *, packed: bool = False) -> Iterator[tuple[str, Member]]:
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


def nested(member: Member) -> Iterator[Member]:
    """The files of a tar that is a member of another."""
    where = member.archive / member.name
    with damage_is_said(where), tarfile.open(fileobj=member.stream, mode="r|", tarinfo=_Header) as tar:
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
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        struct.error,
        EOFError,
        NotImplementedError,
        gzip.BadGzipFile,
    ) as error:
        raise ValueError(f"expected a whole archive, got a truncated or damaged {path}: {error}") from error
    except OSError as error:
        if type(error) is not OSError or error.errno is not None:
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


def _of_tar(path: Path, shown: Path) -> Iterator[Member]:
    with tarfile.open(path, mode="r|*", tarinfo=_Header) as archive:
        yield from _files_of(archive, shown)


def _files_of(archive: tarfile.TarFile, shown: Path) -> Iterator[Member]:
    seen: set[str] = set()
    for info in archive:
        if info.issym() or info.islnk():
            raise ValueError(f"expected files, got the link {info.name} -> {info.linkname} in {shown}; refused")
        if info.isdir():
            continue
        name = info.name.removeprefix("./")
        _check(name, seen, shown)
        if not info.isfile() or info.issparse():
            raise ValueError(f"expected files, got a device, a pipe or holes as {name} in {shown}; refused")
        stream = archive.extractfile(info)
        assert stream is not None
        yield Member(name, info.size, stream, shown)


def _check(name: str, seen: set[str], archive: Path) -> None:
    """Whether a member may be there, after those seen."""
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name.replace("\\", "/")).parts:
        raise ValueError(f"expected names inside the archive, got {name!r} in {archive}; it climbs out, refused")
    if name in seen:
        raise ValueError(f"expected each file once, got a second {name!r} in {archive}; refused")
    seen.add(name)
