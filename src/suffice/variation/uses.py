"""Uses of a variation: exploration in recommendation, abstention, and the choice of inputs to label.

All functions take a prediction and its variation σ in the same units, as `estimator(x)` returns them for a rating or a
logit, in one pass where exploration by dropout takes many. σ estimates the spread under dropout: it is large for
inputs that the model has seen little of, not for predictions that are wrong. Test its worth on your own task.
"""

import math

import torch
from torch import Tensor


def ucb(mean: Tensor, variation: Tensor, weight: float = 1.0) -> Tensor:
    """Return upper confidence bounds μ + wσ; to explore, take the item with the greatest. Auer 2002.

    Args:
        mean: Predictions μ, (N,) or of any shape, such as users × items.
        variation: Variation σ of the same shape, at least 0.
        weight: Number w of standard deviations, at least 0; 0 is greedy.

    Raises:
        ValueError: For shapes that differ or a negative weight.
    """
    _check(mean, variation)
    if not weight >= 0:
        raise ValueError(f"expected a weight of at least 0, got {weight}; a negative one avoids uncertain items")
    return mean + weight * variation


def thompson(mean: Tensor, variation: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw one sample from N(μ, σ²) for each entry; to explore, take the item with the greatest.

    An item is taken with the probability that it is the best, if entries are independent and normal. Thompson 1933.

    Args:
        mean: Predictions μ, (N,) or of any shape, such as users × items.
        variation: Variation σ of the same shape, at least 0.
        generator: Generator of the samples; None for the default generator of torch.

    Raises:
        ValueError: For shapes that differ.
    """
    _check(mean, variation)
    device = mean.device if generator is None else generator.device
    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=device)
    return mean + variation * noise.to(mean.device)


def abstain(variation: Tensor, known: Tensor, coverage: float) -> Tensor:
    """Return the inputs to abstain on, (N,) bool: those with the highest variation.

    They are the inputs above the ⌈(n + 1)c⌉-th lowest of n known variations. An input like those is then accepted with
    probability at least c, and at most c + 1/(n + 1) if no two variations are equal.

    Args:
        variation: Variation of the inputs, (N,).
        known: Variation of other inputs like those in use, such as validation rows, (n,).
        coverage: Fraction c of inputs to accept, in (0, 1].

    Raises:
        ValueError: For a coverage out of range.
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"expected a coverage in (0, 1], got {coverage}")
    rank = math.ceil((len(known) + 1) * coverage - 1e-9)
    if rank > len(known):
        return torch.zeros_like(variation, dtype=torch.bool)
    return variation > known.sort().values[rank - 1]


def acquire(
    variation: Tensor, count: int, *, power: float = math.inf, generator: torch.Generator | None = None
) -> Tensor:
    """Return the indices (count,) int64 of the unlabeled inputs to have labeled.

    They have the greatest log σ + G/β, with G from a Gumbel distribution. This samples without replacement with
    probabilities proportional to σ^β. The inputs with the very greatest σ are often alike, so that their labels are
    redundant; β about 1 makes the batch more diverse. Kirsch et al. 2023 (arXiv 2106.12059).

    Args:
        variation: Variation σ of N inputs, (N,), at least 0.
        count: Number of inputs to select, at most N.
        power: Power β above 0; infinity selects the greatest, without randomness.
        generator: Generator of the samples; None for the default generator of torch.

    Raises:
        ValueError: For a count above N, or a power that is not above 0.
    """
    if not 0 <= count <= len(variation) or not power > 0:
        raise ValueError(f"expected a count up to {len(variation)} and a power above 0, got {count=}, {power=}")
    score = variation.double().log()
    if power < math.inf:
        device = variation.device if generator is None else generator.device
        uniform = torch.rand(len(variation), generator=generator, dtype=torch.float64, device=device)
        gumbel = -(-uniform.clamp_min(torch.finfo(torch.float64).tiny).log()).log()
        score = score + gumbel.to(score.device) / power
    return score.topk(count).indices


def _check(mean: Tensor, variation: Tensor) -> None:
    if mean.shape != variation.shape:
        raise ValueError(
            f"expected means and variations of one shape, got {tuple(mean.shape)} and {tuple(variation.shape)}"
        )
