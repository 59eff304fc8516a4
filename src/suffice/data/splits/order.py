"""Order of a pass over a split: as stored, or one fixed random order.

Many data sets are stored by class. A network that is trained on such an order meets one class at a time and learns
nothing, so the batches of a training split come in a random order unless the stored one is requested. That order is
the same in every pass and process: a loader can be read twice, and a training that resumes from a checkpoint meets the
same batches.
"""

import torch
from torch import Tensor

SEED = 0
"""Seed of the fixed random order."""


def positions(count: int, shuffle: bool) -> Tensor:
    """Return the positions of `count` rows in the order of a pass, (count,) int64."""
    return torch.randperm(count, generator=generator()) if shuffle else torch.arange(count)


def generator() -> torch.Generator:
    """Return a new CPU generator of the fixed random order."""
    return torch.Generator().manual_seed(SEED)
