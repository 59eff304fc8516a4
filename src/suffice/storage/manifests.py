"""Manifests with a digest of themselves, which decide whether a folder may be replaced.

The `manifest.json` of a folder holds a digest of itself. A folder may be replaced if its manifest is unchanged since
suffice wrote it, and the folder holds only files that suffice writes there.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from suffice.storage import reading
from suffice.storage.paths import SYSTEM_FILES, describe_path
from suffice.utils.text import printable

MANIFEST = "manifest.json"

Manifest = dict[str, Any]


def _no_patterns(manifest: Manifest) -> Iterable[str]:
    """Return no patterns, for a folder that holds only its manifest."""
    del manifest
    return ()


@dataclass(frozen=True)
class Kind:
    """Kind of folder, with the entries of its manifest and the files in it.

    Attributes:
        what: Noun phrase for the folder, for messages, such as "an artifact".
        written_by: Function or command that writes it.
        remedy: Advice for a damaged one, for messages.
        format: Version of the layout that can be read.
        entries: Types of the manifest's entries, besides its format and library.
        files: Function from a manifest to patterns of the paths in the folder besides the manifest. Paths of folders
            end in a slash.
        version_entry: Name of the manifest's entry that holds the version of the layout.
    """

    what: str
    written_by: str
    remedy: str
    format: int
    entries: Mapping[str, type] = field(default_factory=dict)
    files: Callable[[Manifest], Iterable[str]] = _no_patterns
    version_entry: str = "format"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a manifest, with its own digest under `manifest_sha256`.

    Raises:
        ValueError: If it is larger, or nested deeper, than `read_manifest` accepts.
    """
    reading.check_depth(manifest)
    payload = json.dumps({**manifest, "manifest_sha256": digest(manifest)}, indent=2).encode()
    if len(payload) > reading.MAX_BYTES:
        raise ValueError(f"expected a manifest of at most {reading.MAX_BYTES:,} bytes, got {len(payload):,}")
    (folder / MANIFEST).write_bytes(payload)


def read_manifest(folder: Path, kind: Kind) -> Manifest:
    """Return the manifest of a folder, without its digest.

    Raises:
        FileNotFoundError: If the folder has no manifest.
        ValueError: If it is damaged, was changed, or is of another format or kind.
    """
    manifest = _read_intact(folder, kind)
    if (version := manifest[kind.version_entry]) != kind.format:
        raise ValueError(
            f"expected format {kind.format}, got format {version} written by {manifest['library']}; read it with that "
            "version"
        )
    _check_entries(folder, manifest, kind)
    return manifest


def owned_paths(folder: Path, kind: Kind) -> list[str]:
    """List everything in a folder that suffice wrote and may replace; each folder comes before its content.

    Paths of folders end in a slash. An empty folder may be replaced. Links, FIFOs, sockets and devices may not.

    Raises:
        FileExistsError: If the folder was not written by suffice, or holds other files, which are named.
    """
    if folder.is_dir() and not os.listdir(folder):
        return []
    try:
        manifest = _read_intact(folder, kind)
        _check_entries(folder, manifest, kind)
    except FileNotFoundError as error:
        raise FileExistsError(
            f"expected a new path or {kind.what} to replace, got {describe_path(folder)}, which {kind.written_by} did "
            "not write; choose another path"
        ) from error
    except ValueError as error:
        raise FileExistsError(
            f"expected a new path or {kind.what} to replace, got {printable(folder)}, whose manifest is not one "
            f"that {kind.written_by} wrote, or was changed; move it away, or choose another path"
        ) from error
    return contents(folder, [re.escape(MANIFEST), *kind.files(manifest)], kind.written_by)


def contents(folder: Path, patterns: Iterable[str], written_by: str) -> list[str]:
    """List everything in a folder, as `owned_paths` does, if all of it matches the patterns or `SYSTEM_FILES`.

    Raises:
        FileExistsError: If anything matches none of the patterns; it is named.
    """
    pattern = re.compile("|".join((*patterns, f"(.*/)?({SYSTEM_FILES})")))
    owned, foreign, pending = [], [], [""]
    while pending:
        parent = pending.pop()
        with os.scandir(folder / parent) as entries:
            for entry in entries:
                is_folder, is_file = entry.is_dir(follow_symlinks=False), entry.is_file(follow_symlinks=False)
                path = f"{parent}{entry.name}{'/' if is_folder else ''}"
                if pattern.fullmatch(path) and (is_folder or is_file):
                    owned.append(path)
                    pending += [path] if is_folder else []
                else:
                    foreign.append(path)
    if foreign:
        names = ", ".join(map(printable, sorted(foreign)[:5]))
        more = f" and {len(foreign) - 5} more" if foreign[5:] else ""
        raise FileExistsError(
            f"expected nothing in {printable(folder)} but what {written_by} wrote, got also {names}{more}; move "
            "that away, or choose another path"
        )
    return owned


def digest(manifest: Manifest) -> str:
    """Return the SHA-256 of a mapping's JSON with sorted keys."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _read_intact(folder: Path, kind: Kind) -> Manifest:
    """Return the manifest of a folder, of any format, if it is unchanged since it was written."""
    file = folder / MANIFEST
    try:
        manifest = reading.read_json(file)
        if not isinstance(manifest, dict) or not manifest.keys() >= {"manifest_sha256", "library", kind.version_entry}:
            raise ValueError("it has no digest of itself, library or format")
        stated, library, version = manifest.pop("manifest_sha256"), manifest["library"], manifest[kind.version_entry]
        if not re.fullmatch(r"suffice \S{1,40}", str(library)) or type(version) is not int:
            raise ValueError("its library is not suffice, or its format is not a number")
        is_intact = stated == digest(manifest)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"expected {kind.what} with {MANIFEST}, found none at {describe_path(folder)}"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"expected a manifest written by {kind.written_by}, got a damaged {printable(file)}: {error}"
        ) from error
    if not is_intact:
        raise ValueError(f"expected {printable(file)} as it was written, got one that was changed; {kind.remedy}")
    return manifest


def _check_entries(folder: Path, manifest: Manifest, kind: Kind) -> None:
    """Raise a ValueError unless the manifest has the entries of its kind."""
    wrong = [name for name, type_ in kind.entries.items() if type(manifest.get(name)) is not type_]
    if wrong:
        raise ValueError(
            f"expected {kind.what} at {printable(folder)}, got a manifest of something else, without "
            f"{wrong[0]} as {kind.written_by} writes it"
        )
