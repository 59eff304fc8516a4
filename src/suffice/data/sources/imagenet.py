"""ImageNet ILSVRC2012: 1.28 million photographs of 1,000 classes (Russakovsky et al. 2015).

Training and validation images are read from the official tars, or from folders `train/<wnid>/` and `val/<wnid>/`.
Classes are the sorted WordNet ids, the order of pretrained networks. The validation images become the `test` part,
since labels of the official test images are not published.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path

from suffice.data.formats.images import folders
from suffice.data.formats.images.packing import Item, pack
from suffice.data.store import archives
from suffice.data.store.bad_records import BadRecords
from suffice.data.store.entry import CatalogEntry, Remote
from suffice.data.store.writer import DatasetWriter

_TRAIN, _VAL, _KIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
_META, _TRUTH = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"
_LARGEST, _KIT_LARGEST = 64 << 20, 1 << 20
_COUNTS = {"train": 1_281_167, "test": 50_000}


def convert(source: Path, writer: DatasetWriter, bad_records: BadRecords) -> None:
    """Import a folder with the three official archives, or with `train/<wnid>/` and `val/<wnid>/`."""
    parts = folders.find_parts(source)
    if "train" in parts:
        classes = folders.class_names(parts["train"])
        for part, folder in parts.items():
            listing = folders.list_images(folder, classes, bad_records)
            items, total = listing.items(folder), len(listing.paths)
            pack(writer, part, items, str(folder), bad_records, classes=classes, total=total)
        writer.manifest["classes"] = classes
        return
    missing = [name for name in (_TRAIN, _VAL, _KIT) if not (source / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"expected a folder with {_TRAIN}, {_VAL} and {_KIT}, or with train/<wnid>/ and val/<wnid>/, "
            f"got {source} without {', '.join(missing)}"
        )
    classes, truth = _read_kit(source / _KIT)
    labels = {wnid: label for label, wnid in enumerate(classes)}
    training, validation = _training(source / _TRAIN, labels), _validation(source / _VAL, truth)
    pack(writer, "train", training, _TRAIN, bad_records, classes=classes, total=_COUNTS["train"])
    pack(writer, "test", validation, _VAL, bad_records, classes=classes, total=_COUNTS["test"])
    writer.manifest["classes"] = classes


def _training(tar: Path, labels: dict[str, int]) -> Iterator[Item]:
    """Yield the training images from a tar that contains one tar per class."""
    for member in archives.members(tar):
        wnid = Path(member.name).stem
        if wnid not in labels:
            raise ValueError(f"expected tars named by the {len(labels)} classes, got {member.name} in {tar}")
        for image in archives.nested_members(member):
            yield image.name, labels[wnid], image.read(_LARGEST)


def _validation(tar: Path, labels: list[int]) -> Iterator[Item]:
    """Yield the validation images, whose names number them from 1; `labels` are in that order."""
    missing = set(range(1, len(labels) + 1))
    for member in archives.members(tar):
        match = re.fullmatch(r"(?:.*/)?ILSVRC2012_val_(\d{8})\.JPEG", member.name)
        number = int(match[1]) if match else 0
        if number not in missing:
            expected = f"ILSVRC2012_val_00000001.JPEG to {len(labels):08}, once each"
            raise ValueError(f"expected {expected}, got {member.name} in {tar}")
        missing.remove(number)
        yield member.name, labels[number - 1], member.read(_LARGEST)
    if missing:
        raise ValueError(f"expected {len(labels)} images in {tar}, found no ILSVRC2012_val_{min(missing):08}.JPEG")


def _read_kit(archive: Path) -> tuple[list[str], list[int]]:
    """Return the sorted WordNet ids, and the label of each validation image."""
    from scipy.io import loadmat

    contents = {name: member.read(_KIT_LARGEST) for name, member in archives.find_members(archive, (_META, _TRUTH))}
    try:
        rows = loadmat(io.BytesIO(contents[_META]), squeeze_me=True)["synsets"]
        leaves = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows if int(row["num_children"]) == 0}
    except Exception as error:  # SciPy can raise anything for a damaged file
        raise ValueError(f"expected the classes in {_META} of {archive}, got a damaged one: {error}") from error
    classes = sorted(leaves.values())
    if len(set(classes)) != len(classes):
        raise ValueError(f"expected each class once in {_META} of {archive}, got a repeated one")
    labels = {str(number): classes.index(wnid) for number, wnid in leaves.items()}
    numbers = contents[_TRUTH].decode("ascii", "replace").split()
    for line, number in enumerate(numbers, start=1):
        if number not in labels:
            raise ValueError(f"expected the number of a class in line {line} of {_TRUTH}, got {number[:20]!r}")
    return classes, [labels[number] for number in numbers]


ENTRIES = (
    CatalogEntry(
        name="imagenet",
        title="1,000-class photographs",
        kind="encoded",
        license="non-commercial, not to be passed on",
        homepage="https://www.image-net.org/download.php",
        remotes=(
            Remote(_TRAIN, "md5:1d675b47d978889d74fa0da5fadfb00e", None),
            Remote(_VAL, "md5:29b22e2961454d5413ddabcf34fc5622", None),
            Remote(_KIT, "md5:fa75699e90414af021442c21a62c3abf", None),
        ),
        convert=convert,
        defaults={"validation": 50_000},
    ),
)
