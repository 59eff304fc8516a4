"""Model-internal ensembling: the answer at exit k averages the probabilities of exits up to k.

    p_k = Σ_{j≤k} w_j p_j / Σ_{j≤k} w_j,   w_j = cumulative multiply-adds up to exit j

Kept as running sums, so that examples that go on carry them and examples that left need nothing.
Qendro et al. 2021 (early-exit ensembles); Meronen et al. 2024 (the weights).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from suffice.prediction import Prediction


@dataclass(frozen=True)
class Running:
    """Sums over the exits so far.

    Attributes:
        log_sum: log Σ_j w_j p_j, (N, C).
        aleatoric_sum: Σ_j w_j aleatoric_j, (N,), in nats.
        weight: Σ_j w_j.
    """

    log_sum: Tensor
    aleatoric_sum: Tensor
    weight: float

    def take(self, index: Tensor) -> "Running":
        """The examples `index` (M,)."""
        return Running(self.log_sum.index_select(0, index), self.aleatoric_sum.index_select(0, index), self.weight)

    def prediction(self, members: tuple[Prediction, ...] = ()) -> Prediction:
        """The ensemble over the exits so far."""
        log_probs = self.log_sum - math.log(self.weight)
        return Prediction(log_probs, self.aleatoric_sum / self.weight, members)


def extend(running: Running | None, member: Prediction, weight: float) -> Running:
    """Add one exit's own prediction with its weight > 0."""
    log_weighted = member.log_probs + math.log(weight)
    if running is None:
        return Running(log_weighted, weight * member.aleatoric, weight)
    return Running(
        torch.logaddexp(running.log_sum, log_weighted),
        running.aleatoric_sum + weight * member.aleatoric,
        running.weight + weight,
    )


def join(parts: Sequence[Running]) -> Running:
    """Sums of different examples over the same exits, the reverse of `take`."""
    log_sums, aleatoric_sums = [part.log_sum for part in parts], [part.aleatoric_sum for part in parts]
    return replace(parts[0], log_sum=torch.cat(log_sums), aleatoric_sum=torch.cat(aleatoric_sums))
