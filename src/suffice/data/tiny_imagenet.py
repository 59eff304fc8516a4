"""Tiny ImageNet: 200 classes of ImageNet at 64×64 (Stanford CS231n). Small enough to be decoded once and for all.

The official validation images are the `test` part, since the labels of the official test images were not published.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from suffice.data import archives, encoded
from suffice.data.augment import CropFlip
from suffice.data.entry import Entry, Faults, Remote, holding
from suffice.data.store import Array, Writer

AUGMENT = CropFlip(padding=8)

_SIDE = 64
_ROWS = 1000
_LARGEST = 16 << 20


def convert(source: Path, writer: Writer, faults: Faults) -> None:
    """The official zip, its folder, or the compact file of the validation part."""
    compact = holding(source, "tiny_imagenet", "val_jpeg.npz")
    if compact is not None:
        _convert_compact(compact / "val_jpeg.npz", writer)
        return
    texts, counts = _first_pass(source)
    wnids = sorted(texts["wnids.txt"].split())
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    rows = (line.split("\t") for line in texts["val_annotations.txt"].splitlines())
    validation = {row[0]: labels[row[1]] for row in rows}
    for part, folder in (("train", "train/"), ("test", "val/images/")):
        found = np.empty(counts[folder], dtype=np.uint8)
        with writer.array(f"{part}_images", (len(found), 3, _SIDE, _SIDE), np.uint8) as append:
            for place, (name, image) in enumerate(_images(source, folder)):
                wnid = name.partition("_")[0]
                found[place] = validation[name] if part == "test" else labels[wnid]
                append(image[None])
                if place % _ROWS == 0:
                    writer.progress(f"decode {part}", place, len(found))
        writer.save(f"{part}_labels", found, np.uint8)
    words = dict(line.split("\t", 1) for line in texts["words.txt"].splitlines())
    writer.manifest["classes"] = [words[wnid] for wnid in wnids]
    writer.manifest["parts"] = {"train": counts["train/"], "test": counts["val/images/"]}


def _convert_compact(file: Path, writer: Writer) -> None:
    with np.load(file, allow_pickle=False) as arrays:
        jpeg, offset, labels = arrays["jpeg"], arrays["offset"], arrays["label"]
        writer.manifest["classes"] = arrays["name"].astype(str).tolist()
    writer.save("all_labels", labels, np.uint8)
    with writer.array("all_images", (len(labels), 3, _SIDE, _SIDE), np.uint8) as append:
        for place in range(len(labels)):
            append(_decoded(bytes(jpeg[offset[place] : offset[place + 1]]), f"image {place} of {file}")[None])
            if place % _ROWS == 0:
                writer.progress("decode", place, len(labels))
    writer.manifest["parts"] = {"all": len(labels)}
    writer.manifest["notes"] = ["the official validation part; the training part is not here"]


def _first_pass(source: Path) -> tuple[dict[str, str], dict[str, int]]:
    """The text files by name, and how many images there are of each part."""
    texts, counts = {}, {"train/": 0, "val/images/": 0}
    for member in archives.members(source):
        name = Path(member.name).name
        if name in ("wnids.txt", "words.txt", "val_annotations.txt"):
            texts[name] = member.read(_LARGEST).decode()
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
            yield Path(member.name).name, _decoded(member.read(_LARGEST), f"{member.name} in {source}")


def _is_image(name: str, folder: str) -> bool:
    return f"/{folder}" in f"/{name}" and name.endswith(".JPEG")


def _decoded(data: bytes, where: str) -> Array:
    """The image, uint8 (3, 64, 64); some are grey."""
    try:
        with encoded.opened(data) as image:
            if image.size != (_SIDE, _SIDE):
                raise ValueError(f"{image.size[0]}×{image.size[1]} pixels")
            return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    except (ValueError, OSError) as error:
        raise ValueError(f"expected an image of 64×64 that decodes, got {where}: {error}") from error


ENTRIES = (
    Entry(
        name="tiny-imagenet",
        title="200-class photographs, 64×64",
        kind="images",
        licence="non-commercial, not to be passed on",
        home="http://cs231n.stanford.edu/",
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
