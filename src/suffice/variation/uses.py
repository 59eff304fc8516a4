"""What a variation is for: which item to try, whom to refuse an answer, which label to ask for.

All take a prediction and its variation σ, in the same units, as `estimator(x)` gives them for a rating or a logit: one
pass where exploration by dropout takes many. σ is what dropout would say: it finds inputs that the model knows little
about, not answers that are wrong. Test its worth on your own task before relying on it.
"""

import math

import torch
from torch import Tensor


def ucb(mean: Tensor, variation: Tensor, weight: float = 1.0) -> Tensor:
    """Upper confidence bounds μ + wσ: to explore, take the item of the greatest. Auer 2002.

    Args:
        mean: μ, (N,) or of any shape, such as users × items.
        variation: σ of the same shape, at least 0.
        weight: w standard deviations, at least 0; 0 is greedy.

    Raises:
        ValueError: for shapes that differ or a negative weight.
    """
    _check(mean, variation)
    if not weight >= 0:
        raise ValueError(f"expected a weight of at least 0, got {weight}; a negative one avoids what is not known")
    return mean + weight * variation


def thompson(mean: Tensor, variation: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """One draw from N(μ, σ²) for each entry: to explore, take the item of the greatest draw.

    An item is taken as often as it would be best, if entries were independent and normal. Thompson 1933.

    Args:
        mean: μ, (N,) or of any shape, such as users × items.
        variation: σ of the same shape, at least 0.
        generator: randomness of the draws.

    Raises:
        ValueError: for shapes that differ.
    """
    _check(mean, variation)
    device = mean.device if generator is None else generator.device
    drawn = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=device)
    return mean + variation * drawn.to(mean.device)


def abstain(variation: Tensor, known: Tensor, coverage: float) -> Tensor:
    """Which inputs (N,) to refuse an answer, bool: those of the highest variation.

    Refused is what exceeds the ⌈(n + 1)c⌉-th lowest of n known variations, so that an input like those is answered
    with a chance of at least c, and at most c + 1/(n + 1) where no two are equal.

    Args:
        variation: of the inputs, (N,).
        known: of other inputs like those to come, such as validation rows, (n,).
        coverage: c, the share to be answered, in (0, 1].

    Raises:
        ValueError: for a coverage out of range.
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
    """Which of N unlabelled inputs to have labelled, int64 (count,).

    The greatest log σ + G/β, with G from a Gumbel distribution: drawn one after another without replacement, with
    chances in proportion to σ^β. A batch of the very greatest holds inputs alike, which teach the same; β about 1
    spreads it. Kirsch et al. 2023 (arXiv 2106.12059).

    Args:
        variation: σ, (N,), at least 0.
        count: how many, at most N.
        power: β above 0; infinite takes the greatest, without randomness.
        generator: randomness of the draws.

    Raises:
        ValueError: for more than N, or a power that is not above 0.
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
