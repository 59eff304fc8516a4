"""Numbers in [0, 1) computed from the bytes of an example: the coin by which a mixed policy assigns its thresholds.

There is no generator, so that the thresholds of an example are the same in any batch, order, process and machine. The
bytes of an example are hashed by a sum with one random odd multiplier per word, then mixed (Steele et al. 2014).
"""

import math

import torch
from torch import Tensor

from suffice.network import State
from suffice.utils.nest import named_leaves

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def hash_to_unit(x: State) -> Tensor:
    """Hash the examples of a batch x to numbers (N,) in [0, 1), float64, uniform over different examples."""
    total = None
    leaves = sorted((name, leaf) for name, leaf in named_leaves(x) if isinstance(leaf, Tensor))  # in any order of keys
    for position, (_, leaf) in enumerate(leaves):
        words = _words(leaf)
        index = torch.arange(words.shape[1], device=leaf.device) + (position << 40)
        hashed = (words * (_mixed(index) | 1)).sum(dim=1)
        total = _mixed(hashed if total is None else hashed + total)
    assert total is not None
    return _unit(total)


def redraw(coin: Tensor) -> Tensor:
    """Return another number (N,) in [0, 1) for each example, from its coin (N,), as if drawn independently of it."""
    return _unit(_mixed((coin * 2**53).long()))


def _unit(bits: Tensor) -> Tensor:
    """Return the upper 53 of 64 bits as a number in [0, 1), float64."""
    return (bits >> 11 & (1 << 53) - 1).double() / 2**53


def _words(leaf: Tensor) -> Tensor:
    """View the bytes of each example as int64 words (N, W)."""
    if leaf.is_complex():
        leaf = torch.view_as_real(leaf)
    flat = leaf.reshape(len(leaf), math.prod(leaf.shape[1:])).contiguous()
    return flat.view(_WORDS[flat.element_size()]).long()


def _mixed(z: Tensor) -> Tensor:
    """Apply the finalizer of SplitMix64, on int64 that wraps and with logical shifts."""
    z = z + _signed(0x9E3779B97F4A7C15)
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shifted(z, 31)


def _shifted(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & ((1 << 64 - bits) - 1)


def _signed(constant: int) -> int:
    return constant - (1 << 64)
