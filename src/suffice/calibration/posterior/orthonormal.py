"""Check that eigenvectors from an artifact are orthonormal, as a decomposition computes them.

Variances from other vectors would belong to no Gaussian. Forming VᵀΓV would cost as much as the decomposition; its
product with one random vector of signs costs D², and another matrix passes only by chance.
"""

import torch
from torch import Tensor

from suffice.storage.parts import Parts


def check_orthonormal(parts: Parts, name: str, vectors: Tensor, gamma: Tensor | None = None) -> None:
    """Raise a ValueError unless VᵀΓV = I to rounding.

    Args:
        parts: Parts of the artifact, for the error.
        name: Name of the tensor.
        vectors: Vectors V (C, K), in columns.
        gamma: Diagonal of Γ, (C,) (default: all 1).

    Raises:
        ValueError: If the product with a vector of signs differs by more than rounding.
    """
    V = vectors.double()
    signs = 2.0 * torch.randint(2, V.shape[1:], generator=torch.Generator().manual_seed(0)) - 1
    signs = signs.to(V)
    scaled = V @ signs if gamma is None else gamma.double() * (V @ signs)
    error = float((V.T @ scaled - signs).abs().max()) if len(signs) else 0.0
    if not error <= rounding_bound(vectors):
        parts.refuse_tensor(name, "of orthonormal columns", f"columns that are not, by {error:.2g}")


def rounding_bound(vectors: Tensor) -> float:
    """Return a bound on the rounding error of (VᵀΓV − I) times a vector of signs.

    V and Γ are stored with a relative error u each, so that an entry of VᵀΓV, Σ_c γ_c v_ci v_cj, has an error of at
    most 3u Σ_c γ_c |v_ci v_cj| ≤ 3u by Cauchy and Schwarz. The decomposition and the products in float64 add a small
    multiple of C units of float64. A product with signs adds up K entries.
    """
    unit, double = torch.finfo(vectors.dtype).eps / 2, torch.finfo(torch.float64).eps / 2
    rows, columns = vectors.shape
    return columns * (3 * unit + _GROWTH * rows * double)


_GROWTH = 10
"""Factor in the bound p(C) · u of Householder decompositions: LAPACK's own tests accept errors up to 10 C u."""
