"""Warning of validation rows that are training rows.

On rows that it was fitted to, an estimator looks better than it is, and early stopping comes too late. Rows are
compared by a hash of their bytes. Inputs of few values, such as a table of two flags, repeat by chance, so the number
of the m validation rows that are among the n training rows is compared with that of a random division of the same
rows. A value that k rows have is then in B ~ Binomial(k, q) validation rows, q = m/(n + m), all of which are repeats
unless B = k:

    E  =  Σ kq − kq^k,      V  =  Σ kq(1 − q) + k²q² − k²q^k − (kq − kq^k)²

There is a warning if the number is above E by five percent of m, and by 5√V.
"""

import math
import warnings

import numpy as np
import torch
from torch import Tensor

from suffice.network import State, batch_size
from suffice.utils.nest import tree_leaves

_SLACK = 0.05
_ERRORS = 5.0


def keys_of(x: State) -> Tensor:
    """Return a hash of the bytes of each example of a batch, (N,) int64; it is the same only within one process."""
    leaves = [leaf.detach().cpu() for leaf in tree_leaves(x) if isinstance(leaf, Tensor)]
    columns = [leaf.contiguous().reshape(len(leaf), -1).view(torch.uint8).numpy() for leaf in leaves]
    return torch.tensor([hash(tuple(column[i].tobytes() for column in columns)) for i in range(batch_size(x))])


def warn_if_repeated(train: Tensor, validation: Tensor, stacklevel: int) -> None:
    """Warn if more validation rows are training rows than chance explains.

    Args:
        train: Keys of training rows, (n,).
        validation: Keys of validation rows, (m,).
        stacklevel: Frames up to the caller that the warning is attributed to, counted from this function.
    """
    n, m = len(train), len(validation)
    repeats = int(np.isin(validation.numpy(), train.numpy()).sum())
    k, q = np.unique(torch.cat([train, validation]).numpy(), return_counts=True)[1].astype(float), m / (n + m)
    means, squares = k * q - k * q**k, k * q * (1 - q) + k**2 * q**2 - k**2 * q**k
    error = math.sqrt(max(0.0, (squares - means**2).sum()))
    if repeats > means.sum() + max(_SLACK * m, _ERRORS * error):
        warnings.warn(
            f"expected validation rows that are no training rows, got {repeats} of {m} that are; the R² and the "
            "band are too good on rows of the fit: pass other inputs as val_loader",
            stacklevel=stacklevel + 1,
        )
