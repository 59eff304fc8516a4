"""Window of eigenvalues that one value can replace, for cheaper predictions."""

import torch
from torch import Tensor

RATIO = 1.02
"""Largest ratio of variances within a window."""


def widest_window(variances: Tensor) -> slice:
    """Return the widest window of positive, descending variances (D,) that differ by a factor of at most `RATIO`."""
    variances = variances.contiguous()
    last = torch.searchsorted(-variances, -variances / RATIO, right=True)
    widths = last - torch.arange(len(last), device=last.device)
    first = int(widths.argmax())
    return slice(first, first + int(widths[first]))
