"""Random masks in bulk: 16 random bits a unit, compared with the rate.

A unit is kept, and scaled by 1/(1 − ρ), where its 16 bits, as a number, reach ρ·2¹⁶. So a rate is one of
1/65536, …, 65535/65536: the nearest. `F.dropout` draws a double for each unit; this is many times cheaper.
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
    """What one run of a site drops: rate, shape (rows, …), type and device."""

    rate: float
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class Source:
    """Random bits that follow from a generator: SFC64 seeded by it on a processor, itself on another device."""

    def __init__(self, generator: torch.Generator | None, device: torch.device) -> None:
        place = device if generator is None else generator.device
        self.generator, self.device = generator, place
        if place.type == "cpu":
            seed = torch.randint(2**62, (2,), generator=generator).tolist()
            self.bits = np.random.Generator(np.random.SFC64(seed))

    def words(self, count: int) -> Tensor:
        """`count` uniform 16-bit integers, as int16."""
        quads = -(-count // 4)
        low, high = -(2**63), 2**63 - 1
        if self.device.type == "cpu":
            drawn = torch.from_numpy(self.bits.integers(low, high, quads, dtype=np.int64, endpoint=True))
        else:
            drawn = torch.empty(quads, dtype=torch.int64, device=self.device)
            drawn.random_(low, None, generator=self.generator)
        return drawn.view(torch.int16)[:count]


def draw(units: Sequence[Units], count: int, source: Source, ones: int = 0) -> list[Tensor]:
    """Factors (ones + count, rows, …) for each site: 1/(1 − rate) with probability 1 − rate, else 0.

    The first `ones` passes have factors of 1: they are ordinary passes.
    """
    return [_factors(unit, count, source, ones) for unit in units]


def nearest(rate: float) -> float:
    """The rate that masks have in its place."""
    return min(max(round(rate * _LEVELS), 1), _LEVELS - 1) / _LEVELS


def _factors(unit: Units, count: int, source: Source, ones: int) -> Tensor:
    rate = nearest(unit.rate)
    words = source.words(count * math.prod(unit.shape)).view(count, *unit.shape).to(unit.device)
    factors = torch.empty((ones + count, *unit.shape), dtype=unit.dtype, device=unit.device)
    torch.ge(words, int(rate * _LEVELS) - _LEVELS // 2, out=factors[ones:])
    factors[ones:].mul_(1 / (1 - rate))
    factors[:ones] = 1
    return factors
