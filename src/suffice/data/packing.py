"""Pack image files end to end into one file, each of them read to its end first."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from suffice.data import encoded
from suffice.data.entry import Faults
from suffice.data.store import Array, Stored, Writer
from suffice.reading import open_file

_TOGETHER = 256

Item = tuple[str, int, bytes]
"""Name, label and bytes of an image."""


def pack(writer: Writer, part: str, images: Iterable[Item], where: str, faults: Faults, total: int = 0) -> int:
    """Write a part of encoded images, and return how many.

    Raises:
        ValueError: for an image that does not decode, unless faults are skipped; if there is none.
    """
    offsets, labels, names = [0], [], []
    with (writer.folder / f"{part}.bin").open("wb") as out:
        for name, label, data in _sound(images, where, faults):
            out.write(data)
            offsets.append(offsets[-1] + len(data))
            labels.append(label)
            names.append(name.encode())
            if len(labels) % _TOGETHER == 0:
                writer.progress(f"pack {part}", len(labels), total)
    if not labels:
        raise ValueError(f"expected images in {where}, found none")
    writer.save(f"{part}_offsets", offsets, np.int64)
    writer.save(f"{part}_labels", labels, np.int64)
    writer.save(f"{part}_names", np.array(names), np.array(names).dtype)
    writer.manifest.setdefault("parts", {})[part] = len(labels)
    return len(labels)


def unpack(stored: Stored, part: str) -> tuple[encoded.Packed, Array]:
    """What `pack` wrote, memory-mapped: the images, and their labels (N,) int64."""
    with stored.open(f"{part}.bin") as stream:
        data = np.memmap(stream, dtype=np.uint8, mode="r")
    file = stored.folder / f"{part}.bin"
    source = encoded.Packed(data, stored.array(f"{part}_offsets"), stored.array(f"{part}_names"), file)
    return source, stored.array(f"{part}_labels")


def parts_of(folder: Path) -> dict[str, Path]:
    """`train` and `test` where the folder holds those (`val` counts as the test part), or all of it."""
    test = folder / "test" if (folder / "test").is_dir() else folder / "val"
    if (folder / "train").is_dir() and test.is_dir():
        return {"train": folder / "train", "test": test}
    return {"all": folder}


def classes_in(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted."""
    return sorted(child.name for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def listed(folder: Path, classes: list[str]) -> tuple[list[Path], Array]:
    """The images of an ImageNet-style folder, `folder/<class>/…`, sorted, and their labels.

    Raises:
        ValueError: if there is none, or a folder is not among the classes.
    """
    strangers = sorted(set(classes_in(folder)) - set(classes))
    if strangers:
        raise ValueError(f"expected folders among the {len(classes)} classes, got {', '.join(strangers)} in {folder}")
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in encoded.SUFFIXES)
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise ValueError(f"expected images in {folder}/<class>/, found none; known are {sorted(encoded.SUFFIXES)}")
    return paths, np.array(labels, dtype=np.int64)


def read_listed(folder: Path, classes: list[str]) -> Iterator[Item]:
    """The images of an ImageNet-style folder, for `pack`."""
    for path, label in zip(*listed(folder, classes), strict=True):
        with open_file(path) as stream:
            yield path.relative_to(folder).as_posix(), int(label), stream.read()


def _sound(images: Iterable[Item], where: str, faults: Faults) -> Iterator[Item]:
    """Those images that decode, checked by threads, since decoding lets others run."""
    rest = iter(images)
    with ThreadPoolExecutor() as pool:
        while together := list(islice(rest, _TOGETHER)):
            opened = [_opened(data) for _, _, data in together]
            for item, why in zip(together, pool.map(_fault, opened), strict=True):
                if why:
                    faults.add(f"{item[0]} in {where}", f"expected an image that decodes: {why}")
                else:
                    yield item


def _opened(data: bytes) -> Any:
    """The image, or why there is none; not by threads, since it looks at warnings."""
    try:
        return encoded.opened(data)
    except ValueError as error:
        return str(error)


def _fault(opened: Any) -> str:
    if isinstance(opened, str):
        return opened
    try:
        encoded.read_through(opened)
    except ValueError as error:
        return str(error)
    return ""
