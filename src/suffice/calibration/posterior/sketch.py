"""A Hessian too large to form, told from its diagonal and a sketch: diagonal plus low rank.

Of U = Σ diag(d) − eeᵀ (C, C), a sum over examples, the diagonal h is kept, and of the negated rest Z its product
with a fixed matrix of signs Ω (C, L). Both are linear in the data, so that sums merge:

    U = diag(h) − Z,   Z = Σ eeᵀ − diag(e²),   Y = ZΩ

(Sketched whole, Σ eeᵀ is mostly its diagonal where predictions are confident, far from low rank, and what a sketch
misses of that would be curvature that is not there.) From these comes a positive semi-definite

    U ≈ T^½ (I + Q diag(υ − 1) Qᵀ) T^½,   T = diag(t),   Q (C, K),   υ ∈ [0, 2];   exact where C ≤ L

whose rows have the sums that were seen, 0 for a softmax, and whose diagonal is h up to what clamping υ changes.
Halko et al. 2011, section 5.5 (eigenvalues from one pass); docs, "Mathematics".
"""

from functools import lru_cache

import torch
from torch import Tensor

COLUMNS = 256
"""L; for no more classes than that U is exact."""

_COLUMNS_PER_VECTOR = 4
_BALANCING_STEPS = 50


@lru_cache(maxsize=2)
def signs(classes: int, columns: int, device: torch.device) -> Tensor:
    """Ω, (C, L): ones, then random signs; the identity where L = C.

    The same on every machine, and row c the same for any number of classes above c and L.
    """
    if columns == classes:
        return torch.eye(classes, dtype=torch.float64, device=device)
    bits = torch.randint(2, (classes, columns), generator=torch.Generator().manual_seed(0))
    bits[:, 0] = 1
    return (2 * bits - 1).to(device, torch.float64)


def off_diagonal(rank_one: Tensor, columns: int) -> Tensor:
    """Y, (C, L), of a batch with e (N, C)."""
    omega = signs(rank_one.shape[1], columns, rank_one.device)
    return rank_one.T @ (rank_one @ omega) - rank_one.square().sum(dim=0)[:, None] * omega


def widen(sketch: Tensor, classes: int) -> Tensor:
    """Y (C, L) of the same examples, had there been more classes, none of which they have anything of."""
    own, columns = sketch.shape
    if own == columns:
        columns = min(COLUMNS, classes)
        sketch = sketch @ signs(classes, columns, sketch.device)[:own]
    return torch.cat([sketch, sketch.new_zeros(classes - own, columns)])


def recover(diagonal: Tensor, sketch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From h (C,) and Y (C, L): t (C,), Q (C, K) with orthonormal columns, and υ (K,); float64.

    With Z ≈ FGFᵀ in hand (`_leading`), whose diagonal is not 0 as that of Z, classes are scaled by x until its rows
    without the diagonal have the sums that were seen; t then is what makes the rows of U have theirs.
    """
    classes, columns = sketch.shape
    if columns == classes:
        factor = torch.eye(classes, dtype=sketch.dtype, device=sketch.device)
        core, sums = sketch, sketch.sum(dim=1).clamp_min(0)
    else:
        factor, core = _leading(diagonal, sketch)
        sums = sketch[:, 0].clamp_min(0)
    own = ((factor @ core) * factor).sum(dim=1)
    x = torch.ones_like(diagonal)
    for _ in range(_BALANCING_STEPS):
        reached = factor @ (core @ (factor.T @ x)) - own * x
        x = (x * sums / reached.maximum(sums / 2).clamp_min(1e-300)).sqrt()
    t = (diagonal - sums + x * (factor @ (core @ (factor.T @ x)))).clamp_min(0)
    Q, coordinates = torch.linalg.qr((x * _inverse_root(t))[:, None] * factor)
    shares, rotation = torch.linalg.eigh(coordinates @ core @ coordinates.T)
    return t, Q @ rotation, 1 - shares.clamp(-1, 1)


def _leading(diagonal: Tensor, sketch: Tensor) -> tuple[Tensor, Tensor]:
    """F (C, K) and G (K, K), symmetric, with Z ≈ FGFᵀ.

    They are F = H^½V and G = VᵀNV of the normalised N = H^-½ Z H^-½, H = diag(h), whose eigenvalues lie in [−1, 1].
    The first of V is √h, an eigenvector since U1 = 0, which the ones in Ω show whole. The others are the leading
    left singular vectors of what half the columns saw of the rest; G solves VᵀN(H^½Ω) = G Vᵀ(H^½Ω) in the other
    half. In the same columns V would lean towards their noise, and G come out too large.
    """
    root, columns = diagonal.sqrt(), sketch.shape[1]
    norm = root.norm().clamp_min(1e-300)
    known, seen, tested = root / norm, _inverse_root(diagonal)[:, None] * sketch, signs(*sketch.shape, sketch.device)
    tested = root[:, None] * tested
    share = known @ seen[:, 0] / norm
    rest = seen - share * torch.outer(known, known @ tested)
    half, kept = columns // 2, columns // _COLUMNS_PER_VECTOR
    vectors = torch.linalg.svd(rest[:, :half], full_matrices=False)[0][:, :kept]
    core = (vectors.T @ rest[:, half:]) @ torch.linalg.pinv(vectors.T @ tested[:, half:])
    factor = root[:, None] * torch.cat([known[:, None], vectors], dim=1)
    shares, rotation = torch.linalg.eigh((core + core.T) / 2)
    return factor, torch.block_diag(share, (rotation * shares.clamp(-1, 1)) @ rotation.T)


def _inverse_root(x: Tensor) -> Tensor:
    """1/√x where x > 0, else 0."""
    return x.clamp_min(1e-300).rsqrt().masked_fill(x <= 0, 0.0)
