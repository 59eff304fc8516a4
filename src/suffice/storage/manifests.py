"""Manifests that notice when they were changed, and that say which files of a folder are ours.

The `manifest.json` of a folder holds a digest of itself. A folder is ours, and may be replaced, if its manifest is as
it was written and there is nothing in the folder but what we write there.
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
from suffice.storage.places import NOBODYS, described, shown

MANIFEST = "manifest.json"

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A kind of folder.

    Attributes:
        what: it holds, for messages.
        written_by: the function or command.
        remedy: if it is damaged.
        format: the version of the layout that is read.
        entries: types of what its manifests hold, beside format and library.
        files: from a manifest, patterns of the paths of what is in the folder beside the manifest; those of folders
            end in a slash.
    """

    what: str
    written_by: str
    remedy: str
    format: int
    entries: Mapping[str, type] = field(default_factory=dict)
    files: Callable[[Manifest], Iterable[str]] = lambda manifest: ()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a manifest, with its own digest under `manifest_sha256`.

    Raises:
        ValueError: if it is larger, or nested deeper, than what is read.
    """
    reading.check_depth(manifest)
    payload = json.dumps({**manifest, "manifest_sha256": digest(manifest)}, indent=2).encode()
    if len(payload) > reading.MOST:
        raise ValueError(f"expected a manifest of at most {reading.MOST:,} bytes, got {len(payload):,}")
    (folder / MANIFEST).write_bytes(payload)


def read_manifest(folder: Path, kind: Kind) -> Manifest:
    """The manifest of a folder, without its digest.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged, was changed, or is of another format or kind.
    """
    manifest = _intact(folder, kind)
    if manifest["format"] != kind.format:
        raise ValueError(
            f"expected format {kind.format}, got format {manifest['format']} written by {manifest['library']}; "
            "read it with that version"
        )
    _check_entries(folder, manifest, kind)
    return manifest


def owned(folder: Path, kind: Kind) -> list[str]:
    """Paths of all that is in a folder of ours; those of folders end in a slash, and come before what is in them.

    An empty folder may be replaced by anybody. Links, FIFOs, sockets and devices are never ours.

    Raises:
        FileExistsError: if it is not ours, or not all of it, naming what is not.
    """
    if folder.is_dir() and not os.listdir(folder):
        return []
    try:
        manifest = _intact(folder, kind)
        _check_entries(folder, manifest, kind)
    except FileNotFoundError as error:
        raise FileExistsError(
            f"expected a new path or {kind.what} to replace, got {described(folder)}, which {kind.written_by} did not "
            "write; choose another path"
        ) from error
    except ValueError as error:
        raise FileExistsError(
            f"expected a new path or {kind.what} to replace, got {shown(folder)}, whose manifest is not one that "
            f"{kind.written_by} wrote, or was changed; move it away, or choose another path"
        ) from error
    return contents(folder, [re.escape(MANIFEST), *kind.files(manifest)], kind.written_by)


def contents(folder: Path, ours: Iterable[str], written_by: str) -> list[str]:
    """Paths of all that is in a folder, as `owned` has them, by patterns of what is ours; what is nobody's is ours too.

    Raises:
        FileExistsError: naming what matches none of the patterns.
    """
    pattern = re.compile("|".join((*ours, f"(.*/)?({NOBODYS})")))
    found, foreign, folders = [], [], [""]
    while folders:
        above = folders.pop()
        with os.scandir(folder / above) as entries:
            for entry in entries:
                inner, plain = entry.is_dir(follow_symlinks=False), entry.is_file(follow_symlinks=False)
                path = f"{above}{entry.name}{'/' if inner else ''}"
                if pattern.fullmatch(path) and (inner or plain):
                    found.append(path)
                    folders += [path] if inner else []
                else:
                    foreign.append(path)
    if foreign:
        named = ", ".join(map(shown, sorted(foreign)[:5])) + (f" and {len(foreign) - 5} more" if foreign[5:] else "")
        raise FileExistsError(
            f"expected nothing in {shown(folder)} but what {written_by} wrote, got also {named}; move that away, or "
            "choose another path"
        )
    return found


def digest(manifest: Manifest) -> str:
    """SHA-256 of a mapping, by its sorted JSON."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _intact(folder: Path, kind: Kind) -> Manifest:
    """The manifest of a folder if it is as it was written, whatever its format."""
    file = folder / MANIFEST
    try:
        manifest = reading.read_json(file)
        if not isinstance(manifest, dict) or not manifest.keys() >= {"manifest_sha256", "library", "format"}:
            raise ValueError("it has no digest of itself, library or format")
        stated, library, version = manifest.pop("manifest_sha256"), manifest["library"], manifest["format"]
        if not re.fullmatch(r"suffice \S{1,40}", str(library)) or type(version) is not int:
            raise ValueError("its library is not this one, or its format no number")
        intact = stated == digest(manifest)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"expected {kind.what} with {MANIFEST}, found none at {described(folder)}") from error
    except ValueError as error:
        raise ValueError(
            f"expected a manifest written by {kind.written_by}, got a damaged {shown(file)}: {error}"
        ) from error
    if not intact:
        raise ValueError(f"expected {shown(file)} as it was written, got one that was changed; {kind.remedy}")
    return manifest


def _check_entries(folder: Path, manifest: Manifest, kind: Kind) -> None:
    wrong = [name for name, type_ in kind.entries.items() if type(manifest.get(name)) is not type_]
    if wrong:
        raise ValueError(
            f"expected {kind.what} at {shown(folder)}, got a manifest of something else, without {wrong[0]} as "
            f"{kind.written_by} writes it"
        )
