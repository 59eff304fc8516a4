"""Assign rows to train, validation and test: seeded, stratified and cached.

A split is one number per row of a part: 0 train, 1 validation, 2 test.
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
"""Number of rows (int), or fraction of the rows (float)."""


@dataclass(frozen=True)
class DataSet(Generic[Part]):
    """Disjoint splits of one data set; a split of size 0 is empty.

    Attributes:
        name: Name in the store.
        train: Training split; its `batches` are in a fixed random order, and its `shuffled` augments if the data set
            has an augmentation.
        validation: Split for calibration and model selection, never augmented.
        test: Split for evaluation, never augmented.
        classes: Class names; empty if the labels are not classes.
        split: SHA-256 of the assignment of rows, to report with results.
    """

    name: str
    train: Part
    validation: Part
    test: Part
    classes: tuple[str, ...]
    split: str

    def __repr__(self) -> str:
        """Return a one-line summary of the splits."""
        parts = f"train={self.train!r}, validation={self.validation!r}, test={self.test!r}"
        return f"DataSet({self.name!r}, {parts}, {len(self.classes)} classes, split={self.split[:12]}…)"


def random_split(labels: Array | None, rows: int, validation: Size, test: Size, seed: int) -> Array:
    """Draw a random split (rows,) uint8.

    Args:
        labels: Class of each row (rows,), to stratify by; None: not stratified.
        rows: Number of rows.
        validation: Size of the validation split, a number (int) or fraction (float) of rows.
        test: Size of the test split, likewise.
        seed: Seed of the split.

    Raises:
        ValueError: If no rows are left for training.
    """
    counts = _counts(rows, validation, test)
    generator = np.random.default_rng(seed)
    split = np.zeros(rows, dtype=np.uint8)
    remaining = np.arange(rows)
    for which, count in counts.items():
        chosen = _stratified_sample(remaining, None if labels is None else labels[remaining], count, generator)
        split[chosen] = which
        remaining = np.flatnonzero(split == TRAIN)
    return split


def time_ordered_split(rows: int, validation: Size, test: Size) -> Array:
    """Split rows that are ordered by time, (rows,) uint8: the last are for test, those before for validation."""
    counts = _counts(rows, validation, test)
    split = np.zeros(rows, dtype=np.uint8)
    split[rows - counts[TEST] - counts[VALIDATION] :] = VALIDATION
    split[rows - counts[TEST] :] = TEST
    return split


def load_or_compute(stored: StoredDataset, key: str, make: Callable[[], Array]) -> tuple[Array, str]:
    """Return a split and its SHA-256; the split is computed once and cached with the data set."""
    split = stored.derived(f"split-{key}", lambda: {"split": make()})["split"]
    return split, fingerprint(split)


def fingerprint(split: Array) -> str:
    """Return the SHA-256 of a split."""
    return hashlib.sha256(split.tobytes()).hexdigest()


def _counts(rows: int, validation: Size, test: Size) -> dict[int, int]:
    counts = {TEST: row_count(rows, test), VALIDATION: row_count(rows, validation)}
    if min(counts.values()) < 0 or sum(counts.values()) >= rows:
        raise ValueError(
            f"expected fewer than {rows} rows to be held out, got {counts[VALIDATION]} for validation "
            f"and {counts[TEST]} for test"
        )
    return counts


def row_count(rows: int, size: Size) -> int:
    """Return the number of rows that a size stands for."""
    return round(rows * size) if isinstance(size, float) else size


def _stratified_sample(rows: Array, labels: Array | None, count: int, generator: np.random.Generator) -> Array:
    """Return `count` random rows; the count of each class is proportional, rounded by the largest remainder."""
    if labels is None:
        return generator.permutation(rows)[:count]
    classes, inverse, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    exact = sizes * count / len(rows)
    quota = np.floor(exact).astype(np.int64)
    order = generator.permutation(len(classes))  # ties between remainders are broken at random
    quota[order[np.argsort(quota[order] - exact[order], kind="stable")][: count - quota.sum()]] += 1
    shuffled = generator.permutation(len(rows))
    by_class = shuffled[np.argsort(inverse[shuffled], kind="stable")]
    place = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return rows[by_class[place < np.repeat(quota, sizes)]]
