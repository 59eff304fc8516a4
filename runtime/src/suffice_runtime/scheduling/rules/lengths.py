"""Texts padded to a few lengths, so that texts of different lengths can run together.

A bundle with a mask gives a text the same answer with tokens behind it that the mask leaves out. They have the mask 0
and, in the other inputs, the number 0, or the number nearest to it that the manifest allows.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from suffice_runtime.bundle.graphs import TOKENS, Tensor
from suffice_runtime.bundle.manifest import Manifest
from suffice_runtime.running.walk import Array, InFlight


def padded_length(tokens: int, lengths: Sequence[int]) -> int:
    """Return the smallest of the rising lengths that holds some tokens, or their own number if none does."""
    place = bisect_left(lengths, tokens)
    return lengths[place] if place < len(lengths) else tokens


def pad(rows: InFlight, manifest: Manifest, length: int) -> InFlight:
    """Add tokens that do not count behind those of texts before the first graph, up to a length.

    Args:
        rows: Texts before the first graph.
        manifest: Manifest of a bundle with a mask.
        length: Number of tokens of the result, at least that of the texts.
    """
    pairs = zip(manifest.inputs, rows.carried, strict=True)
    return replace(rows, carried=[_longer(array, tensor, length) for tensor, array in pairs])


def _longer(array: Array, tensor: Tensor, length: int) -> Array:
    widths = [(0, length - size if name == TOKENS else 0) for name, size in zip(tensor.shape, array.shape, strict=True)]
    if not any(behind for _, behind in widths):
        return array
    return np.pad(array, widths, constant_values=array.dtype.type(tensor.allowed(0)))
