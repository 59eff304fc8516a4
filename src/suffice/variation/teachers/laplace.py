"""The teacher whose variation is that under the posterior of a last layer."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from suffice.network import State, call
from suffice.twin import inference
from suffice.variation.teachers import spreads
from suffice.variation.teachers.spreads import LikelihoodName, Variation


@dataclass(frozen=True)
class LaplaceTeacher:
    """A teacher: the spread of the outputs under a posterior over the weights of the last layer.

    Attributes:
        samples: from a batch to joint samples of the outputs, (S, N, C), such as `calibrated.logit_samples`;
            their second moments are taken as they are, with divisor S.
        likelihood: what the samples are.
    """

    samples: Callable[[State], Tensor]
    likelihood: LikelihoodName = "classification"

    def __post_init__(self) -> None:
        spreads.check_likelihood(self.likelihood)

    def __call__(self, model: nn.Module, x: State, *, generator: torch.Generator | None = None) -> Variation:
        """The variation over the samples, for a batch; their randomness is the callable's own.

        Raises:
            ValueError: if outputs are not finite, or samples are not (S, N, C) with S of at least 2.
        """
        with inference(model) as model:
            deterministic = spreads.outputs(call(model, x), self.likelihood)
            found = self.samples(x)
        if found.ndim != 3 or len(found) < 2 or found.shape[1:] != deterministic.shape:
            raise ValueError(
                f"expected samples (S, {', '.join(map(str, deterministic.shape))}) with S of at least 2, got shape "
                f"{tuple(found.shape)}; pass a function from a batch to joint samples of the outputs"
            )
        found = spreads.outputs(found.flatten(end_dim=1), self.likelihood).view(found.shape)
        sums = spreads.update(spreads.init(deterministic, self.likelihood), found)
        return spreads.variation(sums, divisor=sums.passes)
