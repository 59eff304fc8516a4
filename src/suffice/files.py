"""Folders that are whole or absent, and manifests that notice when they were changed.

A folder is written under a temporary name beside its place, synced to disk and renamed, so that a crash leaves
the old one or the new one, never a part. Its `manifest.json` holds a digest of itself.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `target` at the end of the block, or vanishes if it fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(target)
    try:
        yield temporary
        sync(temporary)
        replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace(new: Path, target: Path) -> None:
    """Put folder `new` in the place of `target`; the old one goes last, and comes back if that fails."""
    if not target.exists():
        new.rename(target)
        sync(target.parent)
        return
    aside = _beside(target)
    try:
        target.rename(aside / "old")
        try:
            new.rename(target)
        except OSError:
            (aside / "old").rename(target)
            raise
        sync(target.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _beside(target: Path) -> Path:
    """A new folder next to the target, with the permissions of any folder, which `tempfile` would keep to its owner."""
    folder = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    return folder


@dataclass(frozen=True)
class Kind:
    """What a folder is, for the messages: `what` it holds, who it was `written_by`, and the `remedy` if damaged."""

    what: str
    written_by: str
    remedy: str
    format: int


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest, with its own digest under `manifest_sha256`."""
    signed = {**manifest, "manifest_sha256": digest(manifest)}
    write_synced(folder / MANIFEST, json.dumps(signed, indent=2).encode())


def read_manifest(folder: Path, kind: Kind) -> dict[str, Any]:
    """The manifest of a folder, without its digest.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged, was changed, or is of another format.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise FileNotFoundError(f"expected {kind.what} with {MANIFEST}, found none at {folder}")
    try:
        manifest: dict[str, Any] = json.loads(file.read_bytes())
        stated = manifest.pop("manifest_sha256")
        intact = stated == digest(manifest)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"expected a manifest written by {kind.written_by}, got a damaged {file}: {error}") from error
    if not intact:
        raise ValueError(f"expected {file} as it was written, got one that was changed; {kind.remedy}")
    if manifest["format"] != kind.format:
        raise ValueError(
            f"expected format {kind.format}, got format {manifest['format']} written by {manifest['library']}; "
            "read it with that version"
        )
    return manifest


def digest(manifest: dict[str, Any]) -> str:
    """SHA-256 of a mapping, by its sorted JSON."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def write_synced(file: Path, payload: bytes) -> None:
    """Write a file and wait until it is on disk."""
    with file.open("wb") as stream:
        stream.write(payload)
        stream.flush()
        os.fsync(stream.fileno())


def sync(folder: Path) -> None:
    """Wait until the names in a folder are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
