"""Ambient torch modes that a caller may have enabled; no prediction depends on them."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch


@contextmanager
def double_by_default() -> Iterator[None]:
    """Make float64 the default type of new tensors."""
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
"""Parametrization of a test by each mode: `surrounding()` returns the context manager."""
