"""Losses of a network with exits: functions `(logits of every exit, labels) -> scalar`, in nats.

    summed       Σ_k CE_k                                                the paper's (Huang et al. 2018)
    weighted     Σ_k w_k CE_k
    distilled    Σ_k CE_k + α T² Σ_{k<K} KL(softmax(z_K/T) ‖ softmax(z_k/T)),   the last exit as the teacher

CE is the mean cross-entropy over the batch. Phuong and Lampert 2019 (distillation between exits; T² keeps its
gradients on the scale of the others, Hinton et al. 2015).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

Loss = Callable[[Sequence[Tensor], Tensor], Tensor]
"""From the logits of K exits, (N, C) each, and labels (N,) to a scalar."""


def summed(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Sum over the exits of their cross-entropies."""
    return torch.stack([cross_entropy(exit_, labels) for exit_ in logits]).sum()


def weighted(weights: Sequence[float]) -> Loss:
    """Sum of the cross-entropies with a weight per exit."""

    def loss(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
        if len(logits) != len(weights):
            raise ValueError(f"expected a weight for each of {len(logits)} exits, got {len(weights)}")
        losses = torch.stack([cross_entropy(exit_, labels) for exit_ in logits])
        return (losses * losses.new_tensor(weights)).sum()

    return loss


def distilled(weight: float = 1.0, temperature: float = 3.0) -> Loss:
    """`summed`, and every earlier exit also learns the last one's probabilities, from which no gradient flows.

    Args:
        weight: α.
        temperature: T of both distributions.
    """

    def loss(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
        teacher = (logits[-1].detach() / temperature).log_softmax(dim=-1)
        students = [(exit_ / temperature).log_softmax(dim=-1) for exit_ in logits[:-1]]
        apart = [kl_div(student, teacher, reduction="batchmean", log_target=True) for student in students]
        total = summed(logits, labels)
        return total + weight * temperature**2 * torch.stack(apart).sum() if apart else total

    return loss
