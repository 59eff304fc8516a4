"""Ambient modes of torch that somebody may have switched on around any call, on which no answer depends."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch


@contextmanager
def double_by_default() -> Iterator[None]:
    """New tensors are float64 where nothing else is said."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SURROUNDINGS = {
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "double": double_by_default,
}

anywhere = pytest.mark.parametrize("surrounding", SURROUNDINGS.values(), ids=SURROUNDINGS)
"""A test for each of them, which takes `surrounding` and calls it for the context."""
