"""Model-internal ensembling: the answer at exit k averages the probabilities of exits up to k, or their logarithms.

    average   p_k = Σ_{j≤k} w_j p_j / Σ_{j≤k} w_j,     w_j = cumulative multiply-adds up to exit j
    product   p_k ∝ exp(Σ_{j≤k} w_j log p_j / Σ_{j≤k} w_j)

Kept as running sums, so that examples that go on carry them and examples that left need nothing.
Qendro et al. 2021 (early-exit ensembles); Meronen et al. 2024 (the weights); Genest and Zidek 1986 (the product, a
logarithmic pool); Jazbec et al. 2023 (products of exits).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from suffice.prediction import Prediction, entropy

Ensemble = bool | Literal["average", "product"]
"""How exits answer together: True is "average", False not at all."""


@dataclass(frozen=True)
class Running:
    """Sums over the exits so far.

    Attributes:
        log_sum: log Σ_j w_j p_j, or of a product Σ_j w_j log p_j, (N, C).
        aleatoric_sum: Σ_j w_j aleatoric_j, (N,), in nats.
        weight: Σ_j w_j.
        product: whether the answer is the product of the exits rather than their average.
    """

    log_sum: Tensor
    aleatoric_sum: Tensor
    weight: float
    product: bool = False

    def take(self, index: Tensor) -> "Running":
        """The examples `index` (M,)."""
        log_sum, aleatoric_sum = self.log_sum.index_select(0, index), self.aleatoric_sum.index_select(0, index)
        return replace(self, log_sum=log_sum, aleatoric_sum=aleatoric_sum)

    def prediction(self, members: tuple[Prediction, ...] = ()) -> Prediction:
        """The ensemble over the exits so far.

        A product may be surer than its members: its aleatoric part is their mean, but at most its entropy.
        """
        aleatoric = self.aleatoric_sum / self.weight
        if not self.product:
            return Prediction(self.log_sum - math.log(self.weight), aleatoric, members)
        log_probs = (self.log_sum / self.weight).log_softmax(dim=-1)
        return Prediction(log_probs, torch.minimum(aleatoric, entropy(log_probs)), members)


def extend(running: Running | None, member: Prediction, weight: float, product: bool = False) -> Running:
    """Add one exit's own prediction with its weight > 0 to an average or a product."""
    log_weighted = weight * member.log_probs if product else member.log_probs + math.log(weight)
    if running is None:
        return Running(log_weighted, weight * member.aleatoric, weight, product)
    return Running(
        running.log_sum + log_weighted if product else torch.logaddexp(running.log_sum, log_weighted),
        running.aleatoric_sum + weight * member.aleatoric,
        running.weight + weight,
        product,
    )


def join(parts: Sequence[Running]) -> Running:
    """Sums of different examples over the same exits, the reverse of `take`."""
    log_sums, aleatoric_sums = [part.log_sum for part in parts], [part.aleatoric_sum for part in parts]
    return replace(parts[0], log_sum=torch.cat(log_sums), aleatoric_sum=torch.cat(aleatoric_sums))
