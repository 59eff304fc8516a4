"""Fewer terms for cheaper predictions: windows of nearly equal eigenvalues, and a basis of sampled offsets."""

import torch
from torch import Tensor

RATIO = 1.02
"""Largest ratio of variances within a window."""

_TOLERANCE = 1e-3
"""Smallest singular value that is kept, relative to the largest: far below the sampling error of any affordable S."""


def widest_window(variances: Tensor) -> slice:
    """Return the widest window of positive, descending variances (D,) that differ by a factor of at most `RATIO`."""
    variances = variances.contiguous()
    last = torch.searchsorted(-variances, -variances / RATIO, right=True)
    widths = last - torch.arange(len(last), device=last.device)
    first = int(widths.argmax())
    return slice(first, first + int(widths[first]))


def leading_directions(curves: Tensor) -> Tensor:
    """Return orthonormal directions (J, R) that span the normalized rows of `curves` (P, J) up to a tolerance."""
    curves = curves / curves.norm(dim=1, keepdim=True)
    _, singular_values, directions = torch.linalg.svd(curves.detach(), full_matrices=False)
    rank = int((singular_values > _TOLERANCE * singular_values[0]).sum())
    leading: Tensor = directions[:rank].T
    return leading
