"""EMNIST: handwritten digits and letters, 28×28 gray (Cohen, Afshar, Tapson, van Schaik 2017).

The images of the official idx files are transposed; they are stored upright. Official labels of `letters` start at 1,
stored labels at 0. Training does not mirror images, since a mirrored letter is another letter or none.
"""

import lzma
import string
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from suffice.data.formats import arrays, labels
from suffice.data.store import archives
from suffice.data.store.bad_records import BadRecords
from suffice.data.store.dataset import Array
from suffice.data.store.entry import CatalogEntry, Remote, find_folder
from suffice.data.store.writer import DatasetWriter

_SIDE = 28
_ROWS = 10_000
_MOST = 2_000_000
"""Maximal number of rows of a file, more than twice that of the largest official one."""
_ALL = string.digits + string.ascii_uppercase + string.ascii_lowercase
_MERGED = string.digits + string.ascii_uppercase + "abdefghnqrt"
CLASSES = {
    "byclass": _ALL,
    "bymerge": _MERGED,
    "balanced": _MERGED,
    "letters": string.ascii_uppercase,
    "digits": string.digits,
}
_COMPACT = {"byclass": "62", "bymerge": "47"}
"""Splits that the compact files have labels for, with their numbers of classes."""


def convert(split: str, source: Path, writer: DatasetWriter, bad_records: BadRecords) -> None:
    """Import the official zip, a folder of idx files (with or without gzip), or the compact files."""
    compact = find_folder(source, "emnist", "byclass_test_images.npy.xz", "byclass_test_labels.npz")
    writer.manifest["classes"] = list(CLASSES[split])
    if compact is not None:
        _convert_compact(split, compact, writer)
        return
    wanted = {
        f"emnist-{split}-{part}-{what}": f"{part}_{what.partition('-')[0]}"
        for part in ("train", "test")
        for what in ("images-idx3-ubyte", "labels-idx1-ubyte")
    }
    counts = {
        wanted[file]: _copy_idx(member, wanted[file], split, writer)
        for file, member in archives.find_members(source, wanted, packed=True)
    }
    if (counts["train_images"], counts["test_images"]) != (counts["train_labels"], counts["test_labels"]):
        raise ValueError(f"expected a label for each image, got {counts} in {source}")
    writer.manifest["parts"] = {part: counts[f"{part}_labels"] for part in ("train", "test")}


def _convert_compact(split: str, folder: Path, writer: DatasetWriter) -> None:
    if split not in _COMPACT:
        raise ValueError(
            f"expected emnist-byclass or emnist-bymerge from the compact files in {folder}, got emnist-{split}; "
            "they contain only the test part of these: pass the official gzip.zip"
        )
    file = folder / "byclass_test_images.npy.xz"
    label_key, names_key = f"label{_COMPACT[split]}", f"names{_COMPACT[split]}"
    labels_file = folder / "byclass_test_labels.npz"
    contents = arrays.read(labels_file, **{label_key: "integers", names_key: "text"})
    classes = contents[names_key].astype(str).tolist()
    if classes != writer.manifest["classes"]:
        raise ValueError(
            f"expected classes {''.join(writer.manifest['classes'])}, got {''.join(classes)} in {labels_file}"
        )
    class_labels = labels.check_range(contents[label_key], len(classes), f"{label_key} of {labels_file}")
    writer.save("all_labels", class_labels, np.uint8)
    with archives.damage_as_value_error(file), lzma.open(file) as stream:
        with writer.array("all_images", (len(class_labels), 1, _SIDE, _SIDE), np.uint8) as append:
            shape, _, dtype = _array_header(stream, file)
            if shape != (len(class_labels), _SIDE, _SIDE) or dtype != np.uint8:
                raise ValueError(f"expected {len(class_labels)} images of 28×28 bytes, got {dtype} {shape} in {file}")
            for block in _blocks(stream, len(class_labels), writer):
                append(block[:, None])
        _check_end(stream, str(file))
    writer.manifest["parts"] = {"all": len(class_labels)}
    writer.manifest["notes"] = ["the test part of the published split; its training part is not here"]


def _array_header(stream: IO[bytes], file: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, order and dtype of an array in NumPy's format."""
    try:
        np.lib.format.read_magic(stream)
        return np.lib.format.read_array_header_1_0(stream)
    except (ValueError, SyntaxError, TypeError, KeyError) as error:
        raise ValueError(f"expected an array in NumPy's format, got {file}: {error}") from error


def _copy_idx(member: archives.Member, name: str, split: str, writer: DatasetWriter) -> int:
    """Write one idx file as an array, and return its number of rows."""
    where = f"{member.name} in {member.archive}"
    stream = archives.decompressed(member)
    with archives.damage_as_value_error(member.archive / member.name):
        if name.endswith("labels"):
            (count,) = _header(stream, 0x801, 1, where)
            numbers = np.frombuffer(archives.read_bounded(stream, count, where), dtype=np.uint8).astype(np.int64)
            first = 1 if split == "letters" else 0
            class_labels = labels.check_range(numbers - first, len(CLASSES[split]), f"{where}, counted from {first}")
            writer.save(name, labels.check_count(class_labels, count, where), np.uint8)
            return count
        count, height, width = _header(stream, 0x803, 3, where)
        if (height, width) != (_SIDE, _SIDE):
            raise ValueError(f"expected images of 28×28, got {height}×{width} in {where}")
        with writer.array(name, (count, 1, _SIDE, _SIDE), np.uint8) as append:
            for block in _blocks(stream, count, writer):
                append(block.transpose(0, 2, 1)[:, None])
        _check_end(stream, where)
    return count


def _check_end(stream: IO[bytes], where: str) -> None:
    if stream.read(1):
        raise ValueError(f"expected no data after the last image, got more in {where}")


def _header(stream: IO[bytes], magic: int, dimensions: int, where: str) -> tuple[int, ...]:
    data = stream.read(4 * (dimensions + 1))
    if len(data) < 4 * (dimensions + 1):
        raise ValueError(f"expected an idx header, got {len(data)} bytes in {where}")
    number, *shape = struct.unpack(f">{dimensions + 1}I", data)
    if number != magic:
        raise ValueError(f"expected an idx file of kind {magic:#06x}, got {number:#06x} in {where}")
    if shape[0] > _MOST:
        raise ValueError(f"expected at most {_MOST:,} rows, got {shape[0]:,} in the header of {where}")
    return tuple(shape)


def _blocks(stream: IO[bytes], count: int, writer: DatasetWriter) -> Iterator[Array]:
    """Yield images (n, 28, 28) uint8, until there are `count` or the stream ends."""
    done = 0
    while done < count:
        data = stream.read(min(_ROWS, count - done) * _SIDE * _SIDE)
        if not data:
            return
        whole = len(data) // (_SIDE * _SIDE)
        yield np.frombuffer(data, dtype=np.uint8, count=whole * _SIDE * _SIDE).reshape(-1, _SIDE, _SIDE)
        done += whole
        writer.progress("read images", done, count)


_ZIP = Remote(
    "gzip.zip",
    "sha256:fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e",
    "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",
)

ENTRIES = tuple(
    CatalogEntry(
        name=f"emnist-{split}",
        title=f"handwriting, {len(classes)} classes, 28×28",
        kind="images",
        license="none stated; from NIST, US government",
        homepage="https://www.nist.gov/itl/products-and-services/emnist-dataset",
        remotes=(_ZIP,),
        convert=partial(convert, split),
        defaults={"validation": 0.1, "test": 0.1},
    )
    for split, classes in CLASSES.items()
)
