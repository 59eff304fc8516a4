"""Categories as numbers for embeddings: by a hash, or by a vocabulary learned from the training rows.

A field's category is a code, a uint32 that says nothing else; its index is in [0, size), where 0 stands for
missing and for unknown.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from suffice.data.store.dataset import Array

_MOST = 1 << 22
"""Distinct codes of one field that are counted at once before those counts are merged."""


@dataclass(frozen=True)
class Hashed:
    """Every field in the same number of buckets; equal indices may be different codes, and nothing is unknown."""

    fields: int
    buckets: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Indices of each field."""
        return (self.buckets,) * self.fields

    def index(self, field: int, codes: Array, missing: Array) -> Array:
        """Index (N,) int64 of codes (N,) uint32; 0 where `missing` (N,) bool.

        1 + mix(field · 2³² + code) mod (buckets − 1), with the mix of splitmix64 (Steele, Lea, Flood 2014).
        """
        mixed = _splitmix64((np.uint64(field) << np.uint64(32)) | codes.astype(np.uint64))
        index = 1 + (mixed % np.uint64(self.buckets - 1)).astype(np.int64)
        return np.where(missing, 0, index)


@dataclass(frozen=True)
class Vocabulary:
    """For each field the sorted codes that occur often enough in training; index i + 1 is the i-th of them."""

    codes: tuple[Array, ...]

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array]) -> "Vocabulary":
        """From what `arrays` gave."""
        return cls(tuple(arrays[str(field)] for field in range(len(arrays))))

    def arrays(self) -> dict[str, Array]:
        """The codes by field, to be recorded."""
        return {str(field): codes for field, codes in enumerate(self.codes)}

    @property
    def sizes(self) -> tuple[int, ...]:
        """Indices of each field."""
        return tuple(len(codes) + 1 for codes in self.codes)

    def index(self, field: int, codes: Array, missing: Array) -> Array:
        """Index (N,) int64 of codes (N,) uint32; 0 where `missing` (N,) bool, or not in the vocabulary."""
        known = self.codes[field]
        if not len(known):
            return np.zeros(len(codes), dtype=np.int64)
        place = np.minimum(np.searchsorted(known, codes), len(known) - 1)
        return np.where(missing | (known[place] != codes), 0, place + 1)


def frequent_codes(blocks: Iterable[Array], least: int) -> Array:
    """Sorted codes that occur at least `least` times in blocks of codes; memory grows with the distinct ones only."""
    values, counts, pending = np.empty(0, np.uint32), np.empty(0, np.int64), 0
    parts = [(values, counts)]
    for block in blocks:
        parts.append(np.unique(block, return_counts=True))
        pending += len(parts[-1][0])
        if pending > _MOST:
            parts, pending = [_merged(parts)], 0
    values, counts = _merged(parts)
    return values[counts >= least]


def _merged(parts: list[tuple[Array, Array]]) -> tuple[Array, Array]:
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
