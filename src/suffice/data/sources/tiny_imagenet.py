"""Tiny ImageNet: 200 classes of ImageNet at 64×64 (Stanford CS231n), decoded at import.

The official validation images become the `test` part, since labels of the official test images are not published.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from suffice.data.augment import CropFlip
from suffice.data.formats import arrays, labels
from suffice.data.formats.images import decoding, folders
from suffice.data.store import archives
from suffice.data.store.bad_records import BadRecords
from suffice.data.store.dataset import Array
from suffice.data.store.entry import CatalogEntry, Remote, find_folder
from suffice.data.store.writer import DatasetWriter

AUGMENT = CropFlip(padding=8)

_SIDE = 64
_ROWS = 1000
_LARGEST = 16 << 20
_MOST_CLASSES = 256


def convert(source: Path, writer: DatasetWriter, bad_records: BadRecords) -> None:
    """Import the official zip, its unpacked folder, or the compact file of the validation part."""
    compact = find_folder(source, "tiny_imagenet", "val_jpeg.npz")
    if compact is not None:
        _convert_compact(compact / "val_jpeg.npz", writer)
        return
    texts, counts = _scan(source)
    wnids = sorted(set(texts["wnids.txt"].split()))
    if len(wnids) > _MOST_CLASSES:
        raise ValueError(f"expected at most {_MOST_CLASSES} classes in wnids.txt of {source}, got {len(wnids)}")
    numbers = {wnid: label for label, wnid in enumerate(wnids)}
    annotated = _pairs(texts, "val_annotations.txt", source)
    words = _pairs(texts, "words.txt", source)
    for part, folder in (("train", "train/"), ("test", "val/images/")):
        part_labels = np.empty(counts[folder], dtype=np.uint8)
        with writer.array(f"{part}_images", (len(part_labels), 3, _SIDE, _SIDE), np.uint8) as append:
            for place, (name, image) in enumerate(_images(source, folder)):
                wnid = annotated.get(name, "") if part == "test" else name.partition("_")[0]
                if wnid not in numbers:
                    raise ValueError(f"expected a class of wnids.txt for {folder}…/{name} in {source}, got {wnid!r}")
                part_labels[place] = numbers[wnid]
                append(image[None])
                if place % _ROWS == 0:
                    writer.progress(f"decode {part}", place, len(part_labels))
        writer.save(f"{part}_labels", part_labels, np.uint8)
        folders.check_classes(part_labels.tolist(), wnids, f"{folder} of {source}", bad_records)
    unnamed = [wnid for wnid in wnids if wnid not in words]
    if unnamed:
        raise ValueError(f"expected words for each class in words.txt of {source}, found none for {unnamed[0]!r}")
    writer.manifest["classes"] = [words[wnid] for wnid in wnids]
    writer.manifest["parts"] = {"train": counts["train/"], "test": counts["val/images/"]}


def _pairs(texts: dict[str, str], name: str, source: Path) -> dict[str, str]:
    """Return the second field of each line by the first; in words.txt all fields after the first."""
    pairs = {}
    for number, line in enumerate(texts[name].replace("\r\n", "\n").split("\n"), start=1):
        key, tab, value = line.partition("\t")
        if line and not tab:
            raise ValueError(f"line {number} of {name} in {source}: expected fields between tabs, got {line[:40]!r}")
        pairs[key] = value if name == "words.txt" else value.partition("\t")[0]
    return pairs


def _convert_compact(file: Path, writer: DatasetWriter) -> None:
    kinds = {"jpeg": "integers", "offset": "integers", "label": "integers", "name": "text"}
    contents = arrays.read(file, **kinds)
    jpeg, offset, classes = contents["jpeg"], contents["offset"], contents["name"].astype(str).tolist()
    class_labels = labels.check_range(contents["label"], min(len(classes), _MOST_CLASSES), f"label of {file}")
    bounds = [0, *offset[1:-1].tolist(), len(jpeg)]
    if (
        jpeg.dtype != np.uint8
        or len(offset) != len(class_labels) + 1
        or offset.tolist() != bounds
        or bounds != sorted(bounds)
    ):
        raise ValueError(
            f"expected JPEG files end to end with the offset of each in {file}, got offsets that do not fit"
        )
    writer.save("all_labels", class_labels, np.uint8)
    with writer.array("all_images", (len(class_labels), 3, _SIDE, _SIDE), np.uint8) as append:
        for place in range(len(class_labels)):
            append(_decode(bytes(jpeg[bounds[place] : bounds[place + 1]]), f"image {place} of {file}")[None])
            if place % _ROWS == 0:
                writer.progress("decode", place, len(class_labels))
    writer.manifest |= {"classes": classes, "parts": {"all": len(class_labels)}}
    writer.manifest["notes"] = ["the official validation part; the training part is not here"]


def _scan(source: Path) -> tuple[dict[str, str], dict[str, int]]:
    """Return the text files by name, and the number of images of each part."""
    texts, counts = {}, {"train/": 0, "val/images/": 0}
    for member in archives.members(source):
        name = Path(member.name).name
        if name in ("wnids.txt", "words.txt", "val_annotations.txt"):
            if name in texts:
                raise ValueError(f"expected one {name} in {source}, got another as {member.name}")
            texts[name] = member.read(_LARGEST).decode("utf-8", "backslashreplace")
        for folder in counts:
            counts[folder] += _is_image(member.name, folder)
    if len(texts) < 3 or not all(counts.values()):
        raise ValueError(
            f"expected wnids.txt, words.txt, val_annotations.txt and images under train/ and val/images/ in {source}, "
            f"found {', '.join(sorted(texts)) or 'no text'} and {counts} images"
        )
    return texts, counts


def _images(source: Path, folder: str) -> Iterator[tuple[str, Array]]:
    for member in archives.members(source):
        if _is_image(member.name, folder):
            yield Path(member.name).name, _decode(member.read(_LARGEST), f"{member.name} in {source}")


def _is_image(name: str, folder: str) -> bool:
    return f"/{folder}" in f"/{name}" and name.endswith(".JPEG")


def _decode(data: bytes, where: str) -> Array:
    """Decode an image to uint8 (3, 64, 64); gray images get three equal channels."""
    try:
        pixels = decoding.decode_pixels(data)
        if pixels.shape[:2] != (_SIDE, _SIDE):
            raise ValueError(f"{pixels.shape[1]}×{pixels.shape[0]} pixels")
    except ValueError as error:
        raise ValueError(f"expected an image of {_SIDE}×{_SIDE} that decodes, got {where}: {error}") from error
    return pixels.transpose(2, 0, 1)


ENTRIES = (
    CatalogEntry(
        name="tiny-imagenet",
        title="200-class photographs, 64×64",
        kind="images",
        license="non-commercial, not to be passed on",
        homepage="http://cs231n.stanford.edu/",
        remotes=(
            Remote(
                "tiny-imagenet-200.zip",
                "md5:90528d7ca1a48142e341f4ef8d21d0de",
                "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
            ),
        ),
        convert=convert,
        defaults={"validation": 0.1, "test": 0.1},
    ),
)
