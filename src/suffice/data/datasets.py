"""Load data sets as train, validation and test splits that yield batches: stored ones, and folders of images."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from suffice.data.augment import Augment
from suffice.data.formats.images import folders, packing
from suffice.data.formats.images.encoded_files import EncodedSource, ImageFiles
from suffice.data.sources import catalog, cifar, digits, tiny_imagenet
from suffice.data.splits import assignment
from suffice.data.splits.assignment import TEST, TRAIN, VALIDATION, DataSet, Size
from suffice.data.splits.categories import Hashed, Vocabulary
from suffice.data.splits.encoded import EncodedImages
from suffice.data.splits.images import Images, moments
from suffice.data.splits.tables import Columns, TableSplit, learn_vocabulary
from suffice.data.splits.texts import Texts
from suffice.data.store import lookup
from suffice.data.store.bad_records import BadRecords
from suffice.data.store.dataset import Array, StoredDataset

_AUGMENT: dict[str, Augment] = {
    "cifar10": cifar.AUGMENT,
    "cifar100": cifar.AUGMENT,
    "tiny-imagenet": tiny_imagenet.AUGMENT,
}

_CHOICES = {
    "images": ("augment",),
    "encoded": ("size", "workers", "skip"),
    "table": ("categories", "min_frequency", "buckets", "unknown"),
    "text": (),
}
"""Additional keyword arguments of `load`, by kind of data set."""


def load(
    name: str, *, validation: Size | None = None, test: Size | None = None, seed: int = 0, **choices: Any
) -> DataSet[Any]:
    """Load a stored data set (or `digits`) as train, validation and test splits.

    Official parts for validation and test are kept. If there is only a test part, `validation` is drawn from the
    training part; without either, both splits are drawn from all rows, stratified by class, or by time if the rows are
    ordered by time. A split is drawn once and cached.

    Args:
        name: Name of the data set, as listed by `suffice data list`.
        validation: Size of the validation split, a number (int) or fraction (float) of rows; None: the set's default.
            Must be None if there is an official validation part.
        test: Size of the test split, likewise; must be None if there is an official test part.
        seed: Seed of the split.
        **choices: For arrays of images `augment`; for photographs `size`, `workers` and `skip` (see `EncodedImages`);
            for tables `categories` ("vocabulary", learned from the training rows, or "hashed"), `min_frequency` (least
            count of a code in the vocabulary), `buckets` (indices per column if hashed) and `unknown` ("zero" or
            "refuse"); for `digits` `share`, the fraction of perturbed validation and test images.

    Raises:
        FileNotFoundError: If the data set is not stored; the message states how to obtain it.
        ValueError: If it is damaged, or the sizes leave no training rows.
        TypeError: For a keyword argument that does not apply to its kind.

    Example:
        >>> import suffice
        >>> digits = suffice.data.load("digits")
        >>> len(digits.train), len(digits.validation), len(digits.test)
        (797, 400, 600)
        >>> x, y = next(iter(digits.test.batches(32)))
        >>> x.shape, y.shape
        (torch.Size([32, 1, 8, 8]), torch.Size([32]))
    """
    if name == "digits":
        _check_choices(name, choices, ("share",))
        sizes = {part: size for part, size in (("validation", validation), ("test", test)) if size is not None}
        return digits.load(seed, **sizes, **choices)
    with catalog.explain_missing():
        return lookup.read_consistently(name, lambda stored: _load(name, stored, validation, test, seed, choices))


def _load(
    name: str, stored: StoredDataset, validation: Size | None, test: Size | None, seed: int, choices: dict[str, Any]
) -> DataSet[Any]:
    _check_choices(name, choices, _CHOICES[stored.manifest["kind"]])
    defaults = catalog.ENTRIES[name].defaults if name in catalog.ENTRIES else {"validation": 0.1, "test": 0.1}
    sizes = _checked_sizes(name, stored.manifest["parts"], defaults, validation, test)
    key = f"{sizes[0]}-{sizes[1]}-seed{seed}"
    loaders: dict[str, Callable[..., DataSet[Any]]] = {
        "images": _load_images,
        "encoded": _load_encoded,
        "table": _load_table,
        "text": _load_texts,
    }
    return loaders[stored.manifest["kind"]](stored, sizes, seed, key, **choices)


def folder(
    path: Path | str, *, validation: Size = 0.1, test: Size | None = None, seed: int = 0, **choices: Any
) -> DataSet[EncodedImages]:
    """Load a folder of images in place, as train, validation and test splits.

    The layout is `path/<class>/…`, or `path/train/<class>/…` and `path/test/<class>/…` (or `val`).

    Args:
        path: The folder.
        validation: Size of the validation split, a number (int) or fraction (float) of the (training) images.
        test: Size of the test split, likewise (default: 0.1); None if the folder has test images.
        seed: Seed of the split.
        **choices: `size`, `workers` and `skip` of `EncodedImages`.

    Raises:
        ValueError: If there are no images, or `test` is given for a folder with test images; unless `skip` is true,
            also if a class has no images or a file has an unsupported image format.
        TypeError: For any other keyword argument.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import suffice
        >>> from PIL import Image
        >>> pets = tempfile.TemporaryDirectory()
        >>> for name, color in (("cat", "gray"), ("dog", "brown")):
        ...     Path(pets.name, name).mkdir()
        ...     for i in range(10):
        ...         Image.new("RGB", (40, 30), color).save(Path(pets.name, name, f"{i}.png"))
        >>> data = suffice.data.folder(pets.name, validation=4, test=4, size=16, workers=0)
        >>> data.classes, len(data.train), len(data.validation), len(data.test)
        (('cat', 'dog'), 12, 4, 4)
        >>> x, y = next(iter(data.test.batches(4)))
        >>> x.shape, sorted(y.tolist())
        (torch.Size([4, 3, 16, 16]), [0, 0, 1, 1])
        >>> pets.cleanup()
    """
    _check_choices(str(path), choices, _CHOICES["encoded"])
    folders_by_part = folders.find_parts(Path(path))
    classes = folders.class_names(folders_by_part.get("train", Path(path)))
    bad_records = BadRecords(skip=bool(choices.get("skip", False)), option="skip=True")
    listings = {part: folders.list_images(place, classes, bad_records) for part, place in folders_by_part.items()}
    for part, images in listings.items():
        folders.check_classes(images.labels.tolist(), classes, str(folders_by_part[part]), bad_records)
    parts = {part: _encoded_part(ImageFiles(images.paths), images.labels, choices) for part, images in listings.items()}
    labels = listings[_part_to_split(listings)].labels
    sizes = _checked_sizes(str(path), listings, {}, validation, test)
    split = assignment.random_split(labels, len(labels), *sizes, seed)
    return _make_splits(str(path), parts, split, assignment.fingerprint(split), tuple(classes))


def _check_choices(name: str, choices: Iterable[str], allowed: Sequence[str]) -> None:
    known = ("validation", "test", "seed", *allowed)
    for choice in choices:
        if choice not in known:
            raise TypeError(f"expected keyword arguments of {name!r} among {', '.join(known)}, got {choice!r}")


def _checked_sizes(
    name: str, parts: Iterable[str], defaults: dict[str, Size], validation: Size | None, test: Size | None
) -> tuple[Size, Size]:
    """Return the sizes of the validation and the test split to draw, 0 where there is an official part."""
    sizes: dict[str, Size] = {}
    for part, size in (("validation", validation), ("test", test)):
        if part in parts and size is not None:
            raise ValueError(f"expected {part}=None for {name}, which has a {part} part, got {size}; leave it out")
        sizes[part] = 0 if part in parts else defaults.get(part, 0.1) if size is None else size
    return sizes["validation"], sizes["test"]


def _part_to_split(parts: Iterable[str]) -> str:
    """Return the name of the part that the random splits are drawn from."""
    return "train" if "train" in parts else "all"


def _assign_rows(
    stored: StoredDataset, labels: Callable[[], Array], sizes: tuple[Size, Size], seed: int, key: str
) -> tuple[Array, str]:
    """Return the split of each row of the training part, or of all rows, and its SHA-256."""
    rows = stored.manifest["parts"][_part_to_split(stored.manifest["parts"])]
    if stored.manifest.get("order") == "time":
        key = f"time-{sizes[0]}-{sizes[1]}"
        return assignment.load_or_compute(stored, key, lambda: assignment.time_ordered_split(rows, *sizes))
    return assignment.load_or_compute(stored, key, lambda: assignment.random_split(labels(), rows, *sizes, seed))


def _load_images(
    stored: StoredDataset, sizes: tuple[Size, Size], seed: int, key: str, augment: Augment | None = None
) -> DataSet[Images]:
    parts = {}
    for part in stored.manifest["parts"]:
        labels = torch.from_numpy(stored.array(f"{part}_labels")).long()
        parts[part] = Images(torch.from_numpy(stored.array(f"{part}_images")), labels)
    labels = parts[_part_to_split(parts)].labels
    split, digest = _assign_rows(stored, labels.numpy, sizes, seed, key)
    data = _make_splits(stored.manifest["name"], parts, split, digest, tuple(stored.manifest["classes"]))
    scale = stored.derived(f"moments-{key}", lambda: dict(zip(("mean", "std"), moments(data.train), strict=True)))
    mean, std = (torch.from_numpy(scale[name]) for name in ("mean", "std"))
    train, validation, test = (replace(part, mean=mean, std=std) for part in (data.train, data.validation, data.test))
    train = replace(train, augment=augment or _AUGMENT.get(data.name))
    return replace(data, train=train, validation=validation, test=test)


def _load_encoded(
    stored: StoredDataset, sizes: tuple[Size, Size], seed: int, key: str, **choices: Any
) -> DataSet[EncodedImages]:
    unpacked = {part: packing.unpack(stored, part) for part in stored.manifest["parts"]}
    parts = {part: _encoded_part(source, labels, choices) for part, (source, labels) in unpacked.items()}
    labels = unpacked[_part_to_split(unpacked)][1]
    split, digest = _assign_rows(stored, lambda: labels, sizes, seed, key)
    return _make_splits(stored.manifest["name"], parts, split, digest, tuple(stored.manifest["classes"]))


def _encoded_part(source: EncodedSource, labels: Array, choices: dict[str, Any]) -> EncodedImages:
    return EncodedImages(source, torch.from_numpy(labels), torch.arange(len(labels)), **choices)


def _load_texts(stored: StoredDataset, sizes: tuple[Size, Size], seed: int, key: str) -> DataSet[Texts]:
    table, parts, start = stored.table("rows"), {}, 0
    for part, count in stored.manifest["parts"].items():
        rows = table.slice(start, count)
        parts[part] = Texts(tuple(rows["text"].to_pylist()), torch.tensor(rows["label"].to_pylist()))
        start += count
    labels = parts[_part_to_split(parts)].labels
    split, digest = _assign_rows(stored, labels.numpy, sizes, seed, key)
    return _make_splits(stored.manifest["name"], parts, split, digest, tuple(stored.manifest["classes"]))


def _make_splits(name: str, parts: dict[str, Any], split: Array, digest: str, classes: tuple[str, ...]) -> DataSet[Any]:
    """Return the splits of parts that have `subset`; `split` (N,) assigns the rows of the training part."""
    source = parts[_part_to_split(parts)]

    def select(which: int) -> Any:
        rows = np.flatnonzero(split == which)
        return source if len(rows) == len(split) else source.subset(torch.from_numpy(rows))

    validation = parts["validation"] if "validation" in parts else select(VALIDATION)
    test = parts["test"] if "test" in parts else select(TEST)
    train = replace(select(TRAIN), training=True)
    return DataSet(name, train, validation, test, classes, digest)


def _load_table(
    stored: StoredDataset,
    sizes: tuple[Size, Size],
    seed: int,
    key: str,
    categories: str = "vocabulary",
    min_frequency: int = 1,
    buckets: int = 1 << 20,
    unknown: str = "zero",
) -> DataSet[TableSplit]:
    if categories not in ("vocabulary", "hashed") or unknown not in ("zero", "refuse"):
        raise ValueError(f"expected vocabulary or hashed, and zero or refuse, got {categories!r} and {unknown!r}")
    columns = Columns.from_manifest(stored.manifest["columns"])
    file = stored.parquet("rows")
    hashed = Hashed(len(columns.categorical), buckets)
    all_rows = TableSplit(file, columns, hashed, np.zeros(stored.manifest["parts"]["all"], np.uint8), TRAIN)
    split, digest = _assign_rows(stored, lambda: all_rows.labels.numpy(), sizes, seed, key)
    train = replace(all_rows, split=split)
    encoding: Hashed | Vocabulary = hashed
    if categories == "vocabulary":
        cache_key = f"vocabulary-{min_frequency}-{digest[:16]}"
        arrays = stored.derived(cache_key, lambda: learn_vocabulary(train, min_frequency).arrays())
        encoding = Vocabulary.from_arrays(arrays)
    train = replace(train, encoding=encoding, refuse=unknown == "refuse")
    validation, test = (replace(train, which=which) for which in (VALIDATION, TEST))
    classes = tuple(map(str, stored.manifest.get("classes", ())))
    return DataSet(stored.manifest["name"], train, validation, test, classes, digest)
