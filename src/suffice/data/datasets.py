"""From the store to splits that yield batches: `load`, and image folders and PyTorch data sets as they are."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from suffice.data import splits, tables
from suffice.data.augment import Augment
from suffice.data.categories import Hashed, Vocabulary
from suffice.data.encoded import EncodedImages
from suffice.data.formats.images import folders, packing
from suffice.data.formats.images.encoded_files import ImageFiles
from suffice.data.images import Images, moments
from suffice.data.sources import catalog, cifar, digits, tiny_imagenet
from suffice.data.splits import TEST, TRAIN, VALIDATION, DataSet, Size
from suffice.data.store import lookup
from suffice.data.store.bad_records import BadRecords
from suffice.data.store.dataset import Array, StoredDataset
from suffice.data.tables import Columns, TableSplit

_AUGMENT: dict[str, Augment] = {
    "cifar10": cifar.AUGMENT,
    "cifar100": cifar.AUGMENT,
    "tiny-imagenet": tiny_imagenet.AUGMENT,
}

_CHOICES = {
    "images": ("augment",),
    "encoded": ("size", "workers", "skip"),
    "table": ("categories", "least", "buckets", "unknown"),
}
"""Of `load`, by kind."""


def load(
    name: str, *, validation: Size | None = None, test: Size | None = None, seed: int = 0, **choices: Any
) -> DataSet[Any]:
    """A data set of the store (or `digits`), in splits that are drawn once and recorded.

    Where the set has an official test part, `validation` is drawn from its training part; else both are drawn
    from all of it: in the classes' proportions, or by time where rows are in its order.

    Args:
        name: as `suffice data list` shows it.
        validation: how many (int) or which share (float) of the rows; None: the set's own.
        test: likewise; not where there is an official test part.
        seed: of the split.
        **choices: for arrays of images `augment`; for photographs `size`, `workers` and `skip` (`EncodedImages`); for tables
            `categories` ("vocabulary", learned from the training rows, or "hashed"), `least` (times that a code of
            the vocabulary must occur there), `buckets` and `unknown` ("zero" or "refuse").

    Raises:
        FileNotFoundError: if it is not in the store, saying how to get it.
        ValueError: if it is damaged, or the sizes leave nothing to train on.
        TypeError: for a choice that its kind does not have.
    """
    if name == "digits":
        _check_choices(name, choices, ("share",))
        sizes = {part: size for part, size in (("validation", validation), ("test", test)) if size is not None}
        return digits.load(seed, **sizes, **choices)  # type: ignore[arg-type]
    with catalog.explain_missing():
        return lookup.read_consistently(name, lambda stored: _loaded(name, stored, validation, test, seed, choices))


def _loaded(
    name: str, stored: StoredDataset, validation: Size | None, test: Size | None, seed: int, choices: dict[str, Any]
) -> DataSet[Any]:
    _check_choices(name, choices, _CHOICES[stored.manifest["kind"]])
    defaults = catalog.ENTRIES[name].defaults if name in catalog.ENTRIES else {"validation": 0.1, "test": 0.1}
    held = _sizes(stored, defaults, validation, test)
    key = f"{held[0]}-{held[1]}-seed{seed}"
    kinds: dict[str, Callable[..., DataSet[Any]]] = {"images": _images, "encoded": _encoded, "table": _table}
    return kinds[stored.manifest["kind"]](stored, held, seed, key, **choices)


def folder(
    path: Path | str, *, validation: Size = 0.1, test: Size = 0.1, seed: int = 0, **choices: Any
) -> DataSet[EncodedImages]:
    """Images read in place, from `path/<class>/…` or `path/train/<class>/…` and `path/test/<class>/…` (or `val`).

    Args:
        path: the folder.
        validation: how many or which share to hold out for calibration, of the training images if there are such.
        test: how many or which share to hold out for judging, where the folder has no test images.
        seed: of the split.
        **choices: `size`, `workers` and `skip` (`EncodedImages`).

    Raises:
        ValueError: if there are no images, or, unless `skip` is given, none of a class or some of another format.
        TypeError: for another choice.
    """
    _check_choices(str(path), choices, _CHOICES["encoded"])
    parts = folders.find_parts(Path(path))
    classes = folders.class_names(parts.get("train", Path(path)))
    bad_records = BadRecords(skip=bool(choices.get("skip", False)), option="skip=True")
    found = {part: folders.list_images(place, classes, bad_records) for part, place in parts.items()}
    for part, images in found.items():
        folders.check_classes(images.labels.tolist(), classes, str(parts[part]), bad_records)
    whole = {part: _whole(ImageFiles(images.paths), images.labels, choices) for part, images in found.items()}
    labels = found[_drawn(parts)].labels
    split = splits.random_split(labels, len(labels), validation, 0 if "test" in parts else test, seed)
    return _cut(str(path), whole, split, splits.fingerprint(split), tuple(classes))


def _check_choices(name: str, choices: Iterable[str], allowed: Sequence[str]) -> None:
    known = ("validation", "test", "seed", *allowed)
    for choice in choices:
        if choice not in known:
            raise TypeError(f"expected of {name!r} the choices {', '.join(known)}, got {choice!r}")


def _sizes(
    stored: StoredDataset, defaults: dict[str, Size], validation: Size | None, test: Size | None
) -> tuple[Size, Size]:
    official = "test" in stored.manifest["parts"]
    if official and test is not None:
        raise ValueError(
            f"expected no size for the test part of {stored.manifest['name']}, which is official; got {test}"
        )
    held = defaults.get("validation", 0.1) if validation is None else validation
    judged = defaults.get("test", 0.1) if test is None else test
    return held, 0 if official else judged


def _drawn(parts: Iterable[str]) -> str:
    """The part that splits are drawn from."""
    return "train" if "train" in parts else "all"


def _assigned(
    stored: StoredDataset, labels: Callable[[], Array], sizes: tuple[Size, Size], seed: int, key: str
) -> tuple[Array, str]:
    """The split of the training part, or of the whole set, and its SHA-256."""
    rows = stored.manifest["parts"][_drawn(stored.manifest["parts"])]
    if stored.manifest.get("order") == "time":
        return splits.load_or_compute(
            stored, f"time-{sizes[0]}-{sizes[1]}", lambda: splits.time_ordered_split(rows, *sizes)
        )
    return splits.load_or_compute(stored, key, lambda: splits.random_split(labels(), rows, *sizes, seed))


def _images(
    stored: StoredDataset, sizes: tuple[Size, Size], seed: int, key: str, augment: Augment | None = None
) -> DataSet[Images]:
    whole = {}
    for part in stored.manifest["parts"]:
        labels = torch.from_numpy(stored.array(f"{part}_labels")).long()
        whole[part] = Images(torch.from_numpy(stored.array(f"{part}_images")), labels)
    labels = whole[_drawn(whole)].labels
    split, digest = _assigned(stored, labels.numpy, sizes, seed, key)
    data = _cut(stored.manifest["name"], whole, split, digest, tuple(stored.manifest["classes"]))
    scale = stored.derived(f"moments-{key}", lambda: dict(zip(("mean", "std"), moments(data.train), strict=True)))
    mean, std = (torch.from_numpy(scale[name]) for name in ("mean", "std"))
    train, held, test = (replace(part, mean=mean, std=std) for part in (data.train, data.validation, data.test))
    return replace(data, train=replace(train, augment=augment or _AUGMENT.get(data.name)), validation=held, test=test)


def _encoded(
    stored: StoredDataset, sizes: tuple[Size, Size], seed: int, key: str, **choices: Any
) -> DataSet[EncodedImages]:
    unpacked = {part: packing.unpack(stored, part) for part in stored.manifest["parts"]}
    whole = {part: _whole(source, labels, choices) for part, (source, labels) in unpacked.items()}
    labels = unpacked[_drawn(unpacked)][1]
    split, digest = _assigned(stored, lambda: labels, sizes, seed, key)
    return _cut(stored.manifest["name"], whole, split, digest, tuple(stored.manifest["classes"]))


def _whole(source: Any, labels: Array, choices: dict[str, Any]) -> EncodedImages:
    return EncodedImages(source, torch.from_numpy(labels), torch.arange(len(labels)), **choices)


def _cut(name: str, whole: dict[str, Any], split: Array, digest: str, classes: tuple[str, ...]) -> DataSet[Any]:
    """The splits of parts that can be cut by rows."""
    first = whole[_drawn(whole)]

    def rows(which: int) -> Any:
        chosen = np.flatnonzero(split == which)
        return first if len(chosen) == len(split) else first.subset(torch.from_numpy(chosen))

    test = whole["test"] if "test" in whole else rows(TEST)
    return DataSet(name, rows(TRAIN), rows(VALIDATION), test, classes, digest)


def _table(
    stored: StoredDataset,
    sizes: tuple[Size, Size],
    seed: int,
    key: str,
    categories: str = "vocabulary",
    least: int = 1,
    buckets: int = 1 << 20,
    unknown: str = "zero",
) -> DataSet[TableSplit]:
    if categories not in ("vocabulary", "hashed") or unknown not in ("zero", "refuse"):
        raise ValueError(f"expected vocabulary or hashed, and zero or refuse, got {categories!r} and {unknown!r}")
    columns = Columns.from_manifest(stored.manifest["columns"])
    file = stored.parquet("rows")
    hashed = Hashed(len(columns.categorical), buckets)
    everything = TableSplit(file, columns, hashed, np.zeros(stored.manifest["parts"]["all"], np.uint8), TRAIN)
    split, digest = _assigned(stored, lambda: everything.labels.numpy(), sizes, seed, key)
    train = replace(everything, split=split)
    encoding: Hashed | Vocabulary = hashed
    if categories == "vocabulary":
        record = f"vocabulary-{least}-{digest[:16]}"
        arrays = stored.derived(record, lambda: tables.learn_vocabulary(train, least).arrays())
        encoding = Vocabulary.from_arrays(arrays)
    train = replace(train, encoding=encoding, refuse=unknown == "refuse")
    held, judged = (replace(train, which=which) for which in (VALIDATION, TEST))
    classes = tuple(map(str, stored.manifest.get("classes", ())))
    return DataSet(stored.manifest["name"], train, held, judged, classes, digest)
