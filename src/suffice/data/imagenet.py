"""ImageNet ILSVRC2012: 1.28 million photographs of 1,000 classes (Russakovsky et al. 2015).

The training and validation images, from the official tars or from folders `train/<wnid>/` and `val/<wnid>/`.
Classes are the WordNet numbers, sorted, as pretrained networks have them. The validation images are the `test`
part: their labels are the only ones published.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path

from suffice.data import archives
from suffice.data.entry import Entry, Faults, Remote
from suffice.data.packing import Item, classes_in, pack, parts_of, read_listed
from suffice.data.store import Writer

_TRAIN, _VAL, _KIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
_LARGEST = 64 << 20
_COUNTS = {"train": 1_281_167, "test": 50_000}


def convert(source: Path, writer: Writer, faults: Faults) -> None:
    """A folder with the three official archives, or with `train/<wnid>/` and `val/<wnid>/`."""
    parts = parts_of(source)
    if "train" in parts:
        classes = classes_in(parts["train"])
        for part, folder in parts.items():
            pack(writer, part, read_listed(folder, classes), str(folder), faults, _COUNTS[part])
        writer.manifest["classes"] = classes
        return
    missing = [name for name in (_TRAIN, _VAL, _KIT) if not (source / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"expected a folder with {_TRAIN}, {_VAL} and {_KIT}, or with train/<wnid>/ and val/<wnid>/, "
            f"got {source} without {', '.join(missing)}"
        )
    synsets, truth = _read_kit(source / _KIT)
    classes = sorted(synsets.values())
    labels = {wnid: label for label, wnid in enumerate(classes)}
    pack(writer, "train", _training(source / _TRAIN, labels), _TRAIN, faults, _COUNTS["train"])
    truth_labels = [labels[synsets[number]] for number in truth]
    pack(writer, "test", _validation(source / _VAL, truth_labels), _VAL, faults, _COUNTS["test"])
    writer.manifest["classes"] = classes


def _training(tar: Path, labels: dict[str, int]) -> Iterator[Item]:
    """A tar of one tar for each class."""
    for member in archives.members(tar):
        wnid = Path(member.name).stem
        if wnid not in labels:
            raise ValueError(f"expected tars named by the {len(labels)} classes, got {member.name} in {tar}")
        for image in archives.nested(member):
            yield image.name, labels[wnid], image.read(_LARGEST)


def _validation(tar: Path, labels: list[int]) -> Iterator[Item]:
    """Images that are numbered from 1 in their names; `labels` are in that order."""
    for member in archives.members(tar):
        match = re.fullmatch(r"(?:.*/)?ILSVRC2012_val_(\d{8})\.JPEG", member.name)
        number = int(match[1]) if match else 0
        if not 1 <= number <= len(labels):
            raise ValueError(f"expected ILSVRC2012_val_00000001.JPEG to {len(labels):08}, got {member.name} in {tar}")
        yield member.name, labels[number - 1], member.read(_LARGEST)


def _read_kit(archive: Path) -> tuple[dict[int, str], list[int]]:
    """WordNet number of each ILSVRC number, and the ILSVRC number of each validation image."""
    from scipy.io import loadmat

    found = {}
    for member in archives.members(archive):
        name = Path(member.name).name
        if name in ("meta.mat", "ILSVRC2012_validation_ground_truth.txt"):
            found[name] = member.read(_LARGEST)
    if len(found) < 2:
        raise ValueError(f"expected meta.mat and ILSVRC2012_validation_ground_truth.txt in {archive}")
    rows = loadmat(io.BytesIO(found["meta.mat"]), squeeze_me=True)["synsets"]
    leaves = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows if int(row["num_children"]) == 0}
    return leaves, [int(line) for line in found["ILSVRC2012_validation_ground_truth.txt"].split()]


ENTRIES = (
    Entry(
        name="imagenet",
        title="1,000-class photographs",
        kind="encoded",
        licence="non-commercial, not to be passed on",
        home="https://www.image-net.org/download.php",
        remotes=(
            Remote(_TRAIN, "md5:1d675b47d978889d74fa0da5fadfb00e", None),
            Remote(_VAL, "md5:29b22e2961454d5413ddabcf34fc5622", None),
            Remote(_KIT, "md5:fa75699e90414af021442c21a62c3abf", None),
        ),
        convert=convert,
        defaults={"validation": 50_000},
    ),
)
