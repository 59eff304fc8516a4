"""Whether vectors that were read are the orthonormal ones that a decomposition gives.

A posterior whose vectors are not would answer with variances of no Gaussian. Forming their products would cost as much
as the decomposition did; products with one vector of signs cost D², and no other matrix passes but by chance.
"""

import torch
from torch import Tensor

from suffice.storage.parts import Parts


def check_orthonormal(parts: Parts, name: str, vectors: Tensor, gamma: Tensor | None = None) -> None:
    """Raise a ValueError unless VᵀΓV = I to rounding.

    Args:
        parts: that `name` was taken from.
        name: of the tensor.
        vectors: V (C, K).
        gamma: Γ's diagonal (C,); None for 1.
    """
    V = vectors.double()
    signs = 2.0 * torch.randint(2, V.shape[1:], generator=torch.Generator().manual_seed(0)) - 1
    signs = signs.to(V)
    scaled = V @ signs if gamma is None else gamma.double() * (V @ signs)
    error = float((V.T @ scaled - signs).abs().max()) if len(signs) else 0.0
    if not error <= rounding(vectors):
        parts.refuse_tensor(name, "of orthonormal columns", f"columns that are not, by {error:.2g}")


def rounding(vectors: Tensor) -> float:
    """Most that rounding can put between VᵀΓV and I, in a product with signs.

    V and Γ are kept with a relative error u each, so that an entry of VᵀΓV, Σ_c γ_c v_ci v_cj, is wrong by at most
    3u Σ_c γ_c |v_ci v_cj| ≤ 3u by Cauchy and Schwarz; that they were decomposed and are multiplied in float64 adds
    a small multiple of C units of that. A product with signs adds up K entries.
    """
    unit, double = torch.finfo(vectors.dtype).eps / 2, torch.finfo(torch.float64).eps / 2
    rows, columns = vectors.shape
    return columns * (3 * unit + _GROWTH * rows * double)


_GROWTH = 10
"""Of the bounds for Householder's decompositions, p(C) · u: in LAPACK's own tests a result may be off by 10 C u."""
