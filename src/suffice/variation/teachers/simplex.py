"""Refusal of class probabilities where logits are expected.

A softmax of probabilities is nearly uniform, so that every spread of a model that ends with a softmax would be far too
small. Rows of probabilities lie on the simplex: no element is negative, and a row of C elements sums to 1 up to
rounding,

    |Σ_c p_c − 1|  ≤  τ  =  4 ε + C ε₃₂

with ε the rounding of the output's type and ε₃₂ that of float32, in which softmax kernels sum. The sum of a row of
logits is in that interval with a chance of about τ, and n different rows all are with one of about τⁿ. They are refused
where this is below 10⁻⁹: from two different rows in float32 and float64, six in bfloat16. Equal rows, such as those of
a classifier whose weights are zero, count once.
"""

import math

import torch
from torch import Tensor

_CHANCE = 1e-9
"""Chance that the rows of a batch of logits look like probabilities, below which they are refused."""
_ROWS = 4096
"""Number of rows among which different ones are counted."""


def check_logits(outputs: Tensor) -> None:
    """Raise a ValueError if outputs (…, C) of a classification are certainly probabilities and not logits.

    Args:
        outputs: Finite outputs of a model; rows of other examples and of other passes count alike.
    """
    values = outputs.detach()
    if not values.numel() or float(values.amin()) < 0:
        return
    classes, single = values.shape[-1], torch.finfo(torch.float32).eps
    tolerance = 4 * torch.finfo(values.dtype).eps + classes * single
    if float((values.double().sum(dim=-1) - 1).abs().amax()) > tolerance:
        return
    needed = math.inf if tolerance >= 1 else max(2, math.ceil(math.log(_CHANCE) / math.log(tolerance)))
    different = len(values.reshape(-1, classes)[:_ROWS].unique(dim=0))
    if different >= needed:
        raise ValueError(
            "expected logits under likelihood='classification', got probabilities: no output is negative, and each row "
            "sums to 1; remove the softmax at the end of the model, or return the logarithms of the probabilities, "
            "which are logits too"
        )
