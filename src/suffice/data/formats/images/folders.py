"""Folders of images, `<class>/…`: which files are images, and which are not meant.

Hidden files and what systems leave in folders are passed over. A file whose name is that of an image of a format that
is not read is a fault, other files are named in a note: nothing that could be an example is left out in silence.
"""

import mimetypes
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from suffice.data.formats.images import decoding
from suffice.data.store.bad_records import BadRecords
from suffice.data.store.dataset import Array

_LITTER = {"@eadir", "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "#recycle", "$recycle.bin"}
"""Names, in small letters, of what systems leave in folders."""
_TYPES = mimetypes.MimeTypes(())
"""Of files by their names; those built in, so that it is the same on every machine."""


@dataclass(frozen=True)
class Listed:
    """The images of a folder.

    Attributes:
        paths: of the files, by class and then sorted.
        labels: (N,) int64.
        others: files that are no images by their names.
    """

    paths: list[Path]
    labels: Array
    others: list[Path] = field(default_factory=list)

    def named(self, folder: Path) -> Iterator[tuple[str, int, Path]]:
        """Each image as its path below the folder, its label, and its file."""
        for path, label in zip(self.paths, self.labels.tolist(), strict=True):
            yield path.relative_to(folder).as_posix(), label, path


def find_parts(folder: Path) -> dict[str, Path]:
    """`train` and `test` where the folder holds those (`val` counts as the test part), or all of it."""
    test = folder / "test" if (folder / "test").is_dir() else folder / "val"
    if (folder / "train").is_dir() and test.is_dir():
        return {"train": folder / "train", "test": test}
    return {"all": folder}


def unread_entries(folder: Path, parts: dict[str, Path]) -> list[Path]:
    """What lies beside the parts of a folder, and is not read."""
    if "all" in parts:
        return []
    return sorted(child for child in folder.iterdir() if not _litter(child.name) and child not in parts.values())


def class_names(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted."""
    return sorted(child.name for child in folder.iterdir() if child.is_dir() and not _litter(child.name))


def list_images(folder: Path, classes: list[str], bad_records: BadRecords) -> Listed:
    """The images of an ImageNet-style folder, `folder/<class>/…`, sorted, and their labels.

    Raises:
        ValueError: if there is none, a folder is not among the classes, or, unless bad records are skipped, a file is an
            image of a format that is not read.
        OSError: if a folder cannot be read.
    """
    strangers = sorted(set(class_names(folder)) - set(classes))
    if strangers:
        raise ValueError(f"expected folders among the {len(classes)} classes, got {', '.join(strangers)} in {folder}")
    paths: list[Path] = []
    labels: list[int] = []
    others = [child for child in folder.iterdir() if not child.is_dir() and not _litter(child.name)]
    for label, name in enumerate(classes):
        for path in _files(folder / name):
            if path.suffix.lower() in decoding.SUFFIXES:
                paths.append(path)
                labels.append(label)
            elif (_TYPES.guess_type(path.name)[0] or "").startswith("image/"):
                bad_records.add(str(path), f"expected an image of {', '.join(decoding.FORMATS)}, got {path.suffix}")
            else:
                others.append(path)
    if not paths:
        raise ValueError(f"expected images in {folder}/<class>/, found none; known are {sorted(decoding.SUFFIXES)}")
    return Listed(paths, np.array(labels, dtype=np.int64), others)


def check_classes(labels: Sequence[int], classes: Sequence[str], where: str, bad_records: BadRecords) -> None:
    """Note a fault if there are classes (by name) without a label (by number).

    Raises:
        ValueError: unless bad records are skipped.
    """
    lacking = sorted(set(range(len(classes))) - set(labels))
    if lacking:
        named = ", ".join(classes[label] for label in lacking[:10]) + (", …" if len(lacking) > 10 else "")
        bad_records.add(where, f"expected images of each of {len(classes)} classes, found none of {named}")


def _files(folder: Path) -> Iterator[Path]:
    """What lies in a folder and in those below it, sorted by path; nothing if it is not there."""

    def refuse(error: OSError) -> None:
        raise error

    found = []
    for place, folders, names in os.walk(folder, onerror=refuse if folder.is_dir() else None):
        folders[:] = [name for name in folders if not _litter(name)]
        found += [Path(place, name) for name in names if not _litter(name)]
    yield from sorted(found)


def _litter(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LITTER
