"""CIFAR-10 and CIFAR-100: 60,000 color images of 32×32 pixels (Krizhevsky 2009).

The official distribution is an archive of Python pickles, which are read without an unpickler (`pickles`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from suffice.data.augment import CropFlip
from suffice.data.formats import arrays, labels, pickles
from suffice.data.formats.images import decoding
from suffice.data.store import archives
from suffice.data.store.bad_records import BadRecords
from suffice.data.store.dataset import Array
from suffice.data.store.entry import CatalogEntry, Remote, find_folder
from suffice.data.store.writer import DatasetWriter

AUGMENT = CropFlip(padding=4)

_HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"
_TERMS = "none stated; cite Krizhevsky 2009"
_SHAPE = (3, 32, 32)
_LARGEST = 200 << 20


def convert_cifar10(source: Path, writer: DatasetWriter, bad_records: BadRecords) -> None:
    """Import CIFAR-10 from the official archive or its unpacked folder."""
    names = [f"data_batch_{i}" for i in range(1, 6)]
    files = _unpickle(source, {*names, "test_batch", "batches.meta"})
    parts = {"train": [files[name] for name in names], "test": [files["test_batch"]]}
    _write(writer, parts, {"labels": (b"labels", 10)})
    writer.manifest["classes"] = files["batches.meta"].names(b"label_names", 10)


def convert_cifar100(source: Path, writer: DatasetWriter, bad_records: BadRecords) -> None:
    """Import CIFAR-100 from the official archive, its unpacked folder, or the compact mosaics."""
    compact = find_folder(source, "cifar100", "labels.npz", "train_0.webp")
    if compact is not None:
        _convert_compact(compact, writer)
        return
    files = _unpickle(source, {"train", "test", "meta"})
    parts = {part: [files[part]] for part in ("train", "test")}
    _write(writer, parts, {"labels": (b"fine_labels", 100), "coarse": (b"coarse_labels", 20)})
    writer.manifest["classes"] = files["meta"].names(b"fine_label_names", 100)
    writer.manifest["coarse_classes"] = files["meta"].names(b"coarse_label_names", 20)


def _convert_compact(folder: Path, writer: DatasetWriter) -> None:
    file, mosaics = folder / "labels.npz", {"train": [f"train_{i}.webp" for i in range(5)], "test": ["test.webp"]}
    integers = dict.fromkeys(("train", "train_coarse", "test", "test_coarse"), "integers")
    contents = arrays.read(file, **integers, names="text", coarse_names="text")
    classes, coarse = contents["names"].astype(str).tolist(), contents["coarse_names"].astype(str).tolist()
    for part, files in mosaics.items():
        fine = labels.check_range(contents[part], len(classes), f"{part} of {file}")
        writer.save(f"{part}_labels", fine, np.uint8)
        by_coarse = labels.check_range(contents[f"{part}_coarse"], len(coarse), f"{part}_coarse of {file}")
        writer.save(f"{part}_coarse", labels.check_count(by_coarse, len(fine), f"{part}_coarse of {file}"), np.uint8)
        with writer.array(f"{part}_images", (len(fine), *_SHAPE), np.uint8) as append:
            for done, name in enumerate(files, start=1):
                append(_read_mosaic(folder / name))
                writer.progress(f"decode {part}", done, len(files))
        writer.manifest.setdefault("parts", {})[part] = len(fine)
    writer.manifest |= {"classes": classes, "coarse_classes": coarse}
    writer.manifest["notes"] = ["sorted by class, not in the order of the original archive"]


def _read_mosaic(file: Path) -> Array:
    """Return the images (N, 3, 32, 32) of a mosaic, row by row."""
    try:
        pixels = decoding.decode_pixels(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"expected a mosaic of images, got {file}: {error}") from error
    side = _SHAPE[1]
    height, width = pixels.shape[:2]
    if height % side or width % side:
        raise ValueError(f"expected a mosaic of images of {side}×{side} pixels, got {width}×{height} in {file}")
    return pixels.reshape(height // side, side, width // side, side, 3).transpose(0, 2, 4, 1, 3).reshape(-1, *_SHAPE)


@dataclass(frozen=True)
class _File:
    """Pickle of the official archive.

    Attributes:
        contents: Unpickled mapping.
        where: Name of the file in messages.
    """

    contents: pickles.Mapping
    where: str

    def images(self) -> Array:
        """Return the images (n, 3, 32, 32) uint8."""
        pixels: Array = self._get(b"data", np.ndarray)
        return pixels.reshape(-1, *_SHAPE)

    def labels(self, key: bytes, classes: int) -> Array:
        """Return the labels (n,) stored under a key, one per image."""
        where = f"{key.decode()} of {self.where}"
        return labels.check_count(labels.check_range(self._get(key, list), classes, where), len(self.images()), where)

    def names(self, key: bytes, classes: int) -> list[str]:
        """Return the class names stored under a key."""
        names = self._get(key, list)
        if len(names) != classes or not all(isinstance(name, bytes) for name in names):
            raise ValueError(f"expected {classes} names in {key.decode()} of {self.where}, got {len(names)}")
        return [name.decode("utf-8", "backslashreplace") for name in names]

    def _get(self, key: bytes, kind: type) -> Any:
        value = self.contents.get(key)
        if not isinstance(value, kind):
            raise ValueError(f"expected {key.decode()} in {self.where}, found none of type {kind.__name__}")
        return value


def _write(writer: DatasetWriter, parts: dict[str, list[_File]], kinds: dict[str, tuple[bytes, int]]) -> None:
    """Write images and labels of each part; `kinds` maps a stored name to the key and number of classes of labels."""
    for part, files in parts.items():
        for name, (key, classes) in kinds.items():
            writer.save(f"{part}_{name}", np.concatenate([file.labels(key, classes) for file in files]), np.uint8)
        count = sum(len(file.images()) for file in files)
        with writer.array(f"{part}_images", (count, *_SHAPE), np.uint8) as append:
            for file in files:
                append(file.images())
        writer.manifest.setdefault("parts", {})[part] = count


def _unpickle(source: Path, names: set[str]) -> dict[str, _File]:
    """Return the pickles of these names in an archive or folder."""
    files = {}
    for name, member in archives.find_members(source, names):
        where = f"{member.name} in {source}"
        files[name] = _File(pickles.read(member.read(_LARGEST), int(np.prod(_SHAPE)), where), where)
    return files


def _entry(classes: int, convert: Any, sha256: str) -> CatalogEntry:
    file = f"cifar-{classes}-python.tar.gz"
    return CatalogEntry(
        name=f"cifar{classes}",
        title=f"{classes}-class photographs, 32×32",
        kind="images",
        license=_TERMS,
        homepage=_HOME,
        remotes=(Remote(file, f"sha256:{sha256}", f"https://www.cs.toronto.edu/~kriz/{file}"),),
        convert=convert,
        defaults={"validation": 5000},
    )


ENTRIES = (
    _entry(10, convert_cifar10, "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"),
    _entry(100, convert_cifar100, "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"),
)
