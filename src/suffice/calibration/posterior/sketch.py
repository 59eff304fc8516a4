"""Estimate of a Hessian too large to form, from its diagonal and a sketch: diagonal plus low rank.

Of U = Σ diag(d) − eeᵀ (C, C), a sum over examples, the diagonal h is stored, and the product of the negated
off-diagonal part Z with a fixed matrix of signs Ω (C, L). Both are linear in the data, so that sums merge:

    U = diag(h) − Z,   Z = Σ eeᵀ − diag(e²),   Y = ZΩ

(With confident predictions Σ eeᵀ is mostly its diagonal and far from low rank. A sketch of all of it would miss part
of that diagonal, and the estimate would have too much curvature.) They give a positive semidefinite estimate

    U ≈ T^½ (I + Q diag(υ − 1) Qᵀ) T^½,   T = diag(t),   Q (C, K),   υ ∈ [0, 2];   exact where C ≤ L

whose row sums are those of U, 0 for a softmax, and whose diagonal is h except where υ is clamped.
Halko et al. 2011, section 5.5 (eigenvalues from one pass); docs, "Mathematics".
"""

from functools import lru_cache

import torch
from torch import Tensor

COLUMNS = 256
"""Number of columns L; with at most as many classes U is exact."""

_COLUMNS_PER_VECTOR = 4
_BALANCING_STEPS = 50


@lru_cache(maxsize=2)
def signs(classes: int, columns: int, device: torch.device) -> Tensor:
    """Return Ω (C, L): a column of ones, then random signs; the identity where L = C.

    It is the same on every machine, and row c is the same for all numbers of classes above both c and L.
    """
    if columns == classes:
        return torch.eye(classes, dtype=torch.float64, device=device)
    bits = torch.randint(2, (classes, columns), generator=torch.Generator().manual_seed(0))
    bits[:, 0] = 1
    return (2 * bits - 1).to(device, torch.float64)


def off_diagonal(rank_one: Tensor, columns: int) -> Tensor:
    """Return the sketch Y (C, L) of a batch with e (N, C)."""
    omega = signs(rank_one.shape[1], columns, rank_one.device)
    return rank_one.T @ (rank_one @ omega) - rank_one.square().sum(dim=0)[:, None] * omega


def widen(sketch: Tensor, classes: int) -> Tensor:
    """Return the sketch Y (C, L) for a head with more classes, in which the new classes have no curvature yet."""
    before, columns = sketch.shape
    if before == columns:
        columns = min(COLUMNS, classes)
        sketch = sketch @ signs(classes, columns, sketch.device)[:before]
    return torch.cat([sketch, sketch.new_zeros(classes - before, columns)])


def recover(diagonal: Tensor, sketch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Estimate U from its diagonal h (C,) and its sketch Y (C, L).

    The diagonal of Z is 0, that of its approximation FGFᵀ (`_leading`) is not. Classes are scaled by x until the row
    sums of FGFᵀ without its diagonal equal those of Z; t then gives U the right row sums.

    Returns:
        t (C,), Q (C, K) with orthonormal columns, and υ (K,); float64.
    """
    classes, columns = sketch.shape
    if columns == classes:
        factor = torch.eye(classes, dtype=sketch.dtype, device=sketch.device)
        core, sums = sketch, sketch.sum(dim=1).clamp_min(0)
    else:
        factor, core = _leading(diagonal, sketch)
        sums = sketch[:, 0].clamp_min(0)
    diagonal_part = ((factor @ core) * factor).sum(dim=1)
    x = torch.ones_like(diagonal)
    for _ in range(_BALANCING_STEPS):
        reached = factor @ (core @ (factor.T @ x)) - diagonal_part * x
        x = (x * sums / reached.maximum(sums / 2).clamp_min(1e-300)).sqrt()
    t = (diagonal - sums + x * (factor @ (core @ (factor.T @ x)))).clamp_min(0)
    Q, coordinates = torch.linalg.qr((x * _inverse_root(t))[:, None] * factor)
    values, rotation = torch.linalg.eigh(coordinates @ core @ coordinates.T)
    return t, Q @ rotation, 1 - values.clamp(-1, 1)


def _leading(diagonal: Tensor, sketch: Tensor) -> tuple[Tensor, Tensor]:
    """Return F (C, K) and symmetric G (K, K) with Z ≈ FGFᵀ.

    They are F = H^½V and G = VᵀNV of the normalized N = H^-½ Z H^-½, H = diag(h), whose eigenvalues lie in [−1, 1].
    The first column of V is √h, an eigenvector since U1 = 0, which the ones in Ω determine exactly. The others are the
    leading left singular vectors of the deflated sketch in half the columns; G solves VᵀN(H^½Ω) = G Vᵀ(H^½Ω) in the
    other half. With the same columns for both, V would fit their noise, and G would be too large.
    """
    root, columns = diagonal.sqrt(), sketch.shape[1]
    norm = root.norm().clamp_min(1e-300)
    first, products = root / norm, _inverse_root(diagonal)[:, None] * sketch
    probes = root[:, None] * signs(*sketch.shape, sketch.device)
    first_value = first @ products[:, 0] / norm
    deflated = products - first_value * torch.outer(first, first @ probes)
    half, rank = columns // 2, columns // _COLUMNS_PER_VECTOR
    vectors = torch.linalg.svd(deflated[:, :half], full_matrices=False)[0][:, :rank]
    core = (vectors.T @ deflated[:, half:]) @ torch.linalg.pinv(vectors.T @ probes[:, half:])
    factor = root[:, None] * torch.cat([first[:, None], vectors], dim=1)
    values, rotation = torch.linalg.eigh((core + core.T) / 2)
    return factor, torch.block_diag(first_value, (rotation * values.clamp(-1, 1)) @ rotation.T)


def _inverse_root(x: Tensor) -> Tensor:
    """Return 1/√x where x > 0, else 0."""
    return x.clamp_min(1e-300).rsqrt().masked_fill(x <= 0, 0.0)
