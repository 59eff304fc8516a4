"""Leading directions of a family of functions, which give sampled offsets their low-rank basis."""

import torch
from torch import Tensor

_TOLERANCE = 1e-3
"""Smallest singular value that is kept, relative to the largest: far below the sampling error of any affordable S."""


def leading_directions(curves: Tensor) -> Tensor:
    """Return orthonormal directions (J, R) that span the normalized rows of `curves` (P, J) up to a tolerance."""
    curves = curves / curves.norm(dim=1, keepdim=True)
    _, singular_values, directions = torch.linalg.svd(curves.detach(), full_matrices=False)
    rank = int((singular_values > _TOLERANCE * singular_values[0]).sum())
    leading: Tensor = directions[:rank].T
    return leading
