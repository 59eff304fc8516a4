"""Numbers in [0, 1) computed from the bytes of an example: the coin by which a mixed policy assigns its thresholds.

The counterpart of `suffice.budget.coin`, equal to it bit by bit: the thresholds of an example are the same in any
batch, process and library. The bytes of an example are hashed by a sum with one random odd multiplier per word, then
mixed (Steele et al. 2014), in unsigned integers of 64 bits, which wrap.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Words = NDArray[np.uint64]
Floats = NDArray[np.float64]

_WORDS = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}


def hash_to_unit(leaves: Sequence[Array]) -> Floats:
    """Hash the examples of a batch to numbers (N,) in [0, 1), float64, uniform over different examples.

    Args:
        leaves: Arrays (N, …) of the batch, in the order of their places in the nest of inputs.

    Example:
        >>> import numpy as np
        >>> from suffice_runtime.coin import hash_to_unit
        >>> coin = hash_to_unit([np.arange(6).reshape(3, 2)])
        >>> coin.shape, bool((coin >= 0).all() and (coin < 1).all())
        ((3,), True)
    """
    total: Words | None = None
    for position, leaf in enumerate(leaves):
        words = _words(leaf)
        hashed = (words * _multipliers(position, words.shape[1])).sum(axis=1, dtype=np.uint64)
        total = _mixed(hashed if total is None else hashed + total)
    assert total is not None
    return _unit(total)


def redraw(coin: Floats) -> Floats:
    """Return another number (N,) in [0, 1) for each example, from its coin (N,), as if drawn independently of it."""
    return _unit(_mixed((coin * 2**53).astype(np.uint64)))


def without_padding(leaves: Sequence[Array], marks: int) -> list[Array]:
    """Return inputs (N, T, …) with the tokens that count first and zeros, which add nothing to a hash, behind.

    Args:
        leaves: Arrays of the batch; those whose second axis is that of the tokens are changed.
        marks: Index of the array (N, T) that is not 0 where a token counts.
    """
    counted = leaves[marks] != 0
    order = np.argsort(~counted, axis=1, kind="stable")
    kept = np.take_along_axis(counted, order, axis=1)

    def packed(leaf: Array) -> Array:
        if leaf.shape[:2] != counted.shape:
            return leaf
        wide = (slice(None), slice(None)) + (None,) * (leaf.ndim - 2)
        return np.where(kept[wide], np.take_along_axis(leaf, order[wide], axis=1), leaf.dtype.type(0))

    return [kept.astype(np.int64) if i == marks else packed(leaf) for i, leaf in enumerate(leaves)]


@lru_cache(maxsize=64)
def _multipliers(position: int, count: int) -> Words:
    """Return the odd multipliers (W,) of the words of one array."""
    multipliers = _mixed(np.arange(count, dtype=np.uint64) + np.uint64(position << 40)) | np.uint64(1)
    multipliers.flags.writeable = False
    return multipliers


def _words(leaf: Array) -> Words:
    """View the bytes of each example as integers (N, W) of 64 bits, each word extended by its sign."""
    if leaf.dtype.kind == "c":
        leaf = np.ascontiguousarray(leaf)[..., None].view(leaf.real.dtype)
    flat = np.ascontiguousarray(leaf).reshape(len(leaf), math.prod(leaf.shape[1:]))
    return flat.view(_WORDS[flat.itemsize]).astype(np.int64).view(np.uint64)


def _mixed(z: Words) -> Words:
    """Apply the finalizer of SplitMix64."""
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _unit(bits: Words) -> Floats:
    """Return the upper 53 of 64 bits as a number in [0, 1), float64."""
    return (bits >> np.uint64(11)).astype(np.float64) / 2.0**53
