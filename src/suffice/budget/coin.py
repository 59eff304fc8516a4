"""Numbers in [0, 1) computed from the bytes of an example: the coin by which a mixed policy assigns its thresholds.

There is no generator, so that the thresholds of an example are the same in any batch, order, process and machine. The
bytes of an example are hashed by a sum with one random odd multiplier per word, then mixed (Steele et al. 2014).
"""

import math

import torch
from torch import Tensor

from suffice.attach.tokens.masks import TokenMask, mask_in
from suffice.network import ExitNetwork, State
from suffice.utils.nest import named_leaves, tree_leaves, tree_map_only

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def coin_of(network: ExitNetwork, x: State) -> Tensor:
    """Hash the examples of a batch of a network's inputs to numbers (N,) in [0, 1), float64; padding does not count."""
    mask = mask_in(network, x)
    return hash_to_unit(x if mask is None else _without_padding(x, mask))


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


def _without_padding(x: State, mask: TokenMask) -> State:
    """Return inputs whose tensors (N, T, …) have the tokens that count first, and zeros, which add nothing, behind."""
    tokens = next((leaf.shape[1] for leaf in tree_leaves(x) if isinstance(leaf, Tensor) and leaf.ndim > 1), 0)
    counted = mask(x, tokens)
    order = (~counted).long().argsort(dim=1, stable=True)
    kept = counted.gather(1, order)

    def packed(leaf: Tensor) -> Tensor:
        if leaf.shape[:2] != counted.shape:
            return leaf
        wide = (slice(None), slice(None)) + (None,) * (leaf.ndim - 2)
        moved = leaf.gather(1, order[wide].expand_as(leaf))
        return moved.masked_fill(~kept[wide], 0)

    source = mask.source(x)
    marks = mask.kind == "fraction" or (source is not None and (mask.kind in ("true", "false") or source.ndim > 3))
    return tree_map_only(Tensor, lambda leaf: kept.long() if leaf is source and marks else packed(leaf), x)


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
