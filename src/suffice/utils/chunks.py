"""Chunks of rows, for computations whose intermediate results would fill the memory."""

from collections.abc import Iterator

import torch
from torch import Tensor


def chunked(rows: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield chunks of at most `rows` rows of tensors with equally many rows.

    The number of rows of a traced graph is not known, so there is a single chunk.
    """
    if torch.compiler.is_compiling():
        yield tensors
    else:
        yield from zip(*(tensor.split(rows) for tensor in tensors), strict=True)
