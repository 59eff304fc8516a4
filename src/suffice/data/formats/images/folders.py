"""Folders of images, `<class>/…`: which files are images, which are reported, and which are ignored.

Hidden files and files that operating systems create are ignored. A file named like an image of an unsupported format
is a bad record, and other files are listed in a note of the manifest: no possible example is dropped silently.
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

_SYSTEM_FILES = {"@eadir", "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "#recycle", "$recycle.bin"}
"""Lowercase names of files and folders that operating systems create."""
_TYPES = mimetypes.MimeTypes(())
"""File types by suffix; only the built-in ones, so that the result is the same on every machine."""


@dataclass(frozen=True)
class ImageListing:
    """Images of a folder.

    Attributes:
        paths: Paths of the images, by class and then sorted.
        labels: Class of each image, (N,) int64.
        others: Files that are not images according to their names.
    """

    paths: list[Path]
    labels: Array
    others: list[Path] = field(default_factory=list)

    def items(self, folder: Path) -> Iterator[tuple[str, int, Path]]:
        """Yield the path relative to the folder, the label and the path of each image."""
        for path, label in zip(self.paths, self.labels.tolist(), strict=True):
            yield path.relative_to(folder).as_posix(), label, path


def find_parts(folder: Path) -> dict[str, Path]:
    """Return the folders of `train` and `test` (also named `val`) if both exist, else the folder as `all`."""
    test = folder / "test" if (folder / "test").is_dir() else folder / "val"
    if (folder / "train").is_dir() and test.is_dir():
        return {"train": folder / "train", "test": test}
    return {"all": folder}


def unread_entries(folder: Path, parts: dict[str, Path]) -> list[Path]:
    """Return the files and folders beside the parts of a folder, which are not read."""
    if "all" in parts:
        return []
    return sorted(child for child in folder.iterdir() if not _is_ignored(child.name) and child not in parts.values())


def class_names(folder: Path) -> list[str]:
    """Return the sorted names of the subfolders."""
    return sorted(child.name for child in folder.iterdir() if child.is_dir() and not _is_ignored(child.name))


def list_images(folder: Path, classes: list[str], bad_records: BadRecords) -> ImageListing:
    """List the images of an ImageNet-style folder, `folder/<class>/…`, sorted, with their labels.

    Raises:
        ValueError: If there are no images or a subfolder is not a class; unless bad records are skipped, also if a
            file has an unsupported image format.
        OSError: If a folder cannot be read.
    """
    unknown = sorted(set(class_names(folder)) - set(classes))
    if unknown:
        raise ValueError(f"expected folders among the {len(classes)} classes, got {', '.join(unknown)} in {folder}")
    paths: list[Path] = []
    labels: list[int] = []
    others = [child for child in folder.iterdir() if not child.is_dir() and not _is_ignored(child.name)]
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
        raise ValueError(
            f"expected images in {folder}/<class>/, found none; suffixes of images are {sorted(decoding.SUFFIXES)}"
        )
    return ImageListing(paths, np.array(labels, dtype=np.int64), others)


def check_classes(labels: Sequence[int], classes: Sequence[str], where: str, bad_records: BadRecords) -> None:
    """Count one bad record if there are classes (names) that no label (number) refers to.

    Raises:
        ValueError: Unless bad records are skipped.
    """
    empty = sorted(set(range(len(classes))) - set(labels))
    if empty:
        names = ", ".join(classes[label] for label in empty[:10]) + (", …" if len(empty) > 10 else "")
        bad_records.add(where, f"expected images of each of {len(classes)} classes, found none of {names}")


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, sorted by path; none if the folder does not exist."""

    def propagate(error: OSError) -> None:
        raise error

    paths = []
    for place, folders, names in os.walk(folder, onerror=propagate if folder.is_dir() else None):
        folders[:] = [name for name in folders if not _is_ignored(name)]
        paths += [Path(place, name) for name in names if not _is_ignored(name)]
    yield from sorted(paths)


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM_FILES
