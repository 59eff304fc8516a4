"""Which rows are for training, for calibration and for judging: seeded, stratified, recorded.

A split is one number for each row of a part: 0 training, 1 validation, 2 test.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from suffice.data.store.dataset import Array, StoredDataset

TRAIN, VALIDATION, TEST = range(3)

Part = TypeVar("Part")
Size = int | float
"""A number of rows, or a share of them below 1."""


@dataclass(frozen=True)
class DataSet(Generic[Part]):
    """Disjoint splits of one data set; one for which nothing was held out is empty.

    Attributes:
        name: in the store.
        train: for learning; its `shuffled` augments where the set calls for it.
        validation: for calibrating and choosing; never augmented.
        test: for judging; never augmented.
        classes: names, where labels are classes.
        split: SHA-256 of the assignment of rows, to be put beside results.
    """

    name: str
    train: Part
    validation: Part
    test: Part
    classes: tuple[str, ...]
    split: str

    def __repr__(self) -> str:
        """One line: the splits, with how many classes there are."""
        parts = f"train={self.train!r}, validation={self.validation!r}, test={self.test!r}"
        return f"DataSet({self.name!r}, {parts}, {len(self.classes)} classes, split={self.split[:12]}…)"


def random_split(labels: Array | None, rows: int, validation: Size, test: Size, seed: int) -> Array:
    """A split (rows,) uint8 at random.

    Args:
        labels: (rows,) classes, each of which is cut in the same proportions; None: without regard to any.
        rows: how many there are.
        validation: how many, or which share, to hold out for calibration.
        test: how many, or which share, to hold out for judging.
        seed: of the draw.

    Raises:
        ValueError: if nothing is left for training.
    """
    counts = _counts(rows, validation, test)
    generator = np.random.default_rng(seed)
    split = np.zeros(rows, dtype=np.uint8)
    left = np.arange(rows)
    for which, count in counts.items():
        taken = _stratified(left, None if labels is None else labels[left], count, generator)
        split[taken] = which
        left = np.flatnonzero(split == TRAIN)
    return split


def time_ordered_split(rows: int, validation: Size, test: Size) -> Array:
    """A split (rows,) uint8 of rows in order of time: the last are for judging, those before for calibration."""
    counts = _counts(rows, validation, test)
    split = np.zeros(rows, dtype=np.uint8)
    split[rows - counts[TEST] - counts[VALIDATION] :] = VALIDATION
    split[rows - counts[TEST] :] = TEST
    return split


def load_or_compute(stored: StoredDataset, key: str, make: Callable[[], Array]) -> tuple[Array, str]:
    """A split and its SHA-256, made once and read from its record afterwards."""
    split = stored.derived(f"split-{key}", lambda: {"split": make()})["split"]
    return split, fingerprint(split)


def fingerprint(split: Array) -> str:
    """SHA-256 of a split."""
    return hashlib.sha256(split.tobytes()).hexdigest()


def _counts(rows: int, validation: Size, test: Size) -> dict[int, int]:
    counts = {TEST: _count(rows, test), VALIDATION: _count(rows, validation)}
    if min(counts.values()) < 0 or sum(counts.values()) >= rows:
        raise ValueError(
            f"expected fewer than {rows} rows to be held out, got {counts[VALIDATION]} for validation "
            f"and {counts[TEST]} for test"
        )
    return counts


def _count(rows: int, size: Size) -> int:
    return round(rows * size) if isinstance(size, float) else size


def _stratified(rows: Array, labels: Array | None, count: int, generator: np.random.Generator) -> Array:
    """`count` of the rows, from each class its share to the nearest, the fractions left over by largest remainder."""
    if labels is None:
        return generator.permutation(rows)[:count]
    classes, inverse, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    exact = sizes * count / len(rows)
    quota = np.floor(exact).astype(np.int64)
    order = generator.permutation(len(classes))  # which of equal remainders go first is random too
    quota[order[np.argsort(quota[order] - exact[order], kind="stable")][: count - quota.sum()]] += 1
    shuffled = generator.permutation(len(rows))
    by_class = shuffled[np.argsort(inverse[shuffled], kind="stable")]
    place = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return rows[by_class[place < np.repeat(quota, sizes)]]
