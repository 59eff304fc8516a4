"""Download the files of a data set: resumable and checked; a file is complete or absent."""

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from suffice.data.store.entry import CatalogEntry, Remote
from suffice.data.store.lookup import ADVICE, require_free_space, root
from suffice.storage import files, filesystem, reading
from suffice.utils.progress import ProgressCallback

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as lost."""
_BLOCK = 1 << 20


def downloads() -> Path:
    """Return the folder of the downloads; they can be deleted after the import."""
    return root() / ".downloads"


def fetch(entry: CatalogEntry, progress: ProgressCallback) -> Path:
    """Download the missing files of a data set, and return their folder.

    Raises:
        ValueError: If a file must be downloaded manually, or its checksum is wrong (it is then deleted).
        ConnectionError: If there is no network or the connection broke; a second call resumes.
        BlockingIOError: If another download of a file is running.
        OSError: If the disk is full.
    """
    for remote in entry.remotes:
        if remote.url is None:
            raise ValueError(
                f"expected a file that can be downloaded directly, but {remote.file} requires accepting the terms "
                f"at {entry.homepage}; download it there, then run `{entry.import_command()}`"
            )
    for remote in entry.remotes:
        _download(remote, entry, progress)
    return downloads()


def check(file: Path, remote: Remote, progress: ProgressCallback) -> str:
    """Return the checksum of a file as `algorithm:hexadecimal`.

    Raises:
        ValueError: If it differs from the official checksum, if one is known.
    """
    algorithm = remote.checksum.partition(":")[0] if remote.checksum else "sha256"
    digest, done, total = hashlib.new(algorithm), 0, file.stat().st_size
    with reading.open_file(file) as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
            done += len(block)
            progress(f"check {file.name}", done, total)
    checksum = f"{algorithm}:{digest.hexdigest()}"
    if remote.checksum is not None and checksum != remote.checksum:
        raise ValueError(
            f"expected {remote.file} with {remote.checksum}, got {checksum} ({total:,} bytes) at {file}; "
            "it is truncated or another file: download it again"
        )
    return checksum


def _download(remote: Remote, entry: CatalogEntry, progress: ProgressCallback) -> None:
    file = downloads() / remote.file
    part = file.with_name(f"{remote.file}.part")
    with files.lock_target(file, wait=False, advice=ADVICE):
        if file.exists():
            return
        _transfer(remote, entry, part, progress)
        try:
            check(part, remote, progress)
        except ValueError:
            part.unlink()
            raise
        os.replace(part, file)
        filesystem.sync_folder(file.parent)


def _transfer(remote: Remote, entry: CatalogEntry, part: Path, progress: ProgressCallback) -> None:
    """Append the missing bytes to `part`."""
    assert remote.url is not None
    try:
        start = part.stat().st_size if part.exists() else 0
        request = urllib.request.Request(remote.url, headers={"Range": f"bytes={start}-"} if start else {})
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            start = start if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
            length = response.headers.get("Content-Length")
            total = start + int(length) if length and length.isdecimal() else 0
            require_free_space(total - start)
            with part.open("r+b" if start else "wb") as stream:
                stream.seek(start)
                for done in _copy(response, stream, start):
                    progress(f"fetch {remote.file}", done, total)
                done = stream.tell()
                stream.flush()
                os.fsync(stream.fileno())
        if total and done != total:
            raise ConnectionError(f"the connection broke after {done:,} of {total:,} bytes")
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # the file is complete; its checksum is verified later
        raise ConnectionError(_unreachable(remote, entry, f"{error.code} {error.reason}")) from error
    except (urllib.error.URLError, ConnectionError, TimeoutError, http.client.HTTPException) as error:
        raise ConnectionError(_unreachable(remote, entry, getattr(error, "reason", None) or error)) from error


def _copy(source: IO[bytes], target: IO[bytes], start: int) -> Iterator[int]:
    while block := source.read(_BLOCK):
        target.write(block)
        start += len(block)
        yield start


def _unreachable(remote: Remote, entry: CatalogEntry, why: object) -> str:
    return (
        f"expected {remote.file} from {remote.url}, but {why}; run it again to resume, or download the file "
        f"in another way and run `{entry.import_command()}`"
    )
