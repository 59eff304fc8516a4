"""Random dropout masks in bulk: 16 random bits for each unit, compared with the rate.

A unit is kept, and scaled by 1/(1 − ρ), if its 16 bits, read as an integer, are at least ρ·2¹⁶. The effective rate is
therefore the nearest of 1/65536, …, 65535/65536. `F.dropout` draws a double for each unit; this is many times cheaper.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_LEVELS = 1 << 16


@dataclass(frozen=True)
class Units:
    """Units that one run of a site drops: rate, shape (rows, …), dtype and device."""

    rate: float
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class Source:
    """Random bits that follow from a generator.

    On the CPU they come from SFC64, seeded by the generator; on another device from the generator itself.

    Args:
        generator: Generator of the seed or of the bits; None for the default generator of torch.
        device: Device of the bits if there is no generator.
    """

    def __init__(self, generator: torch.Generator | None, device: torch.device) -> None:
        self.generator = generator
        self.device = device if generator is None else generator.device
        if self.device.type == "cpu":
            seed = torch.randint(2**62, (2,), generator=generator).tolist()
            self.bits = np.random.Generator(np.random.SFC64(seed))

    def words(self, count: int) -> Tensor:
        """Draw `count` uniform 16-bit integers, as int16 (count,)."""
        num_quads = -(-count // 4)
        low, high = -(2**63), 2**63 - 1
        if self.device.type == "cpu":
            quads = torch.from_numpy(self.bits.integers(low, high, num_quads, dtype=np.int64, endpoint=True))
        else:
            quads = torch.empty(num_quads, dtype=torch.int64, device=self.device)
            quads.random_(low, None, generator=self.generator)
        return quads.view(torch.int16)[:count]


def draw(units: Sequence[Units], count: int, source: Source, ones: int = 0) -> list[Tensor]:
    """Draw factors for each site: 1/(1 − rate) with probability 1 − rate, else 0.

    Args:
        units: Units of each site.
        count: Number of random passes.
        source: Source of the random bits.
        ones: Number of deterministic passes, with factors of 1, before the random ones.

    Returns:
        Factors (ones + count, rows, …) of each site.
    """
    return [_factors(unit, count, source, ones) for unit in units]


def nearest(rate: float) -> float:
    """Return the rate that masks have in place of the given one."""
    return min(max(round(rate * _LEVELS), 1), _LEVELS - 1) / _LEVELS


def _factors(unit: Units, count: int, source: Source, ones: int) -> Tensor:
    rate = nearest(unit.rate)
    words = source.words(count * math.prod(unit.shape)).view(count, *unit.shape).to(unit.device)
    factors = torch.empty((ones + count, *unit.shape), dtype=unit.dtype, device=unit.device)
    torch.ge(words, int(rate * _LEVELS) - _LEVELS // 2, out=factors[ones:])
    factors[ones:].mul_(1 / (1 - rate))
    factors[:ones] = 1
    return factors
