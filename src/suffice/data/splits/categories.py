"""Map categories to embedding indices: by a hash, or by a vocabulary learned from the training rows.

A category of a field is stored as a code, an arbitrary uint32; its index is in [0, size), and index 0 means missing or
unknown.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from suffice.data.store.dataset import Array

_MOST = 1 << 22
"""Number of distinct codes whose partial counts are kept before they are merged."""


@dataclass(frozen=True)
class Hashed:
    """Hash encoding with the same number of buckets for every field.

    Different codes can share an index, and no code is unknown.

    Attributes:
        fields: Number of categorical columns.
        buckets: Number of indices of each column, index 0 included.
    """

    fields: int
    buckets: int

    def __post_init__(self) -> None:
        if self.buckets < 2:
            raise ValueError(f"expected 2 buckets or more, of which one is for missing values, got {self.buckets}")

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of indices of each field, which is the size of its embedding."""
        return (self.buckets,) * self.fields

    def index(self, field: int, codes: Array, missing: Array) -> Array:
        """Return the indices (N,) int64 of codes (N,) uint32; 0 where `missing` (N,) bool is true.

        1 + mix(field · 2³² + code) mod (buckets − 1), with the mix of splitmix64 (Steele, Lea, Flood 2014).
        """
        mixed = _splitmix64((np.uint64(field) << np.uint64(32)) | codes.astype(np.uint64))
        index = 1 + (mixed % np.uint64(self.buckets - 1)).astype(np.int64)
        return np.where(missing, 0, index)


@dataclass(frozen=True)
class Vocabulary:
    """Vocabulary encoding of codes that are frequent enough in the training rows.

    Attributes:
        codes: Sorted codes of each field, uint32; the i-th code has index i + 1.
    """

    codes: tuple[Array, ...]

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array]) -> "Vocabulary":
        """Return the vocabulary whose `arrays()` these are."""
        return cls(tuple(arrays[str(field)] for field in range(len(arrays))))

    def arrays(self) -> dict[str, Array]:
        """Return the codes by field number, for `from_arrays`."""
        return {str(field): codes for field, codes in enumerate(self.codes)}

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of indices of each field, which is the size of its embedding."""
        return tuple(len(codes) + 1 for codes in self.codes)

    def index(self, field: int, codes: Array, missing: Array) -> Array:
        """Return the indices (N,) int64 of codes (N,) uint32; 0 if missing or not in the vocabulary."""
        known = self.codes[field]
        if not len(known):
            return np.zeros(len(codes), dtype=np.int64)
        place = np.minimum(np.searchsorted(known, codes), len(known) - 1)
        return np.where(missing | (known[place] != codes), 0, place + 1)


def frequent_codes(blocks: Iterable[Array], min_frequency: int) -> Array:
    """Return the sorted codes that occur at least `min_frequency` times in blocks of codes.

    Memory grows with the number of distinct codes, not with the number of rows.
    """
    values, counts, pending = np.empty(0, np.uint32), np.empty(0, np.int64), 0
    parts = [(values, counts)]
    for block in blocks:
        parts.append(np.unique(block, return_counts=True))
        pending += len(parts[-1][0])
        if pending > _MOST:
            parts, pending = [_merge_counts(parts)], 0
    values, counts = _merge_counts(parts)
    return values[counts >= min_frequency]


def _merge_counts(parts: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    values, inverse = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
    counts = np.zeros(len(values), dtype=np.int64)
    np.add.at(counts, inverse, np.concatenate([part[1] for part in parts]))
    return values, counts


def _splitmix64(x: Array) -> Array:
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return np.asarray(x)
