"""Other teachers than dropout: an ensemble of networks, and the posterior of the last layer.

A teacher is any callable `(model, x, *, generator) -> Variation`; one pass of an estimator can stand in for it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from suffice.network import State, call
from suffice.twin import inference
from suffice.variation import spreads
from suffice.variation.spreads import Likelihood, Variation


class Teacher(Protocol):
    """Anything that says how predictions vary: its answer is what an estimator learns."""

    def __call__(self, model: nn.Module, x: State, *, generator: torch.Generator | None = None) -> Variation:
        """The variation of the model's predictions for a batch x."""


@dataclass(frozen=True)
class Ensemble:
    """A teacher: how much networks that were trained apart differ, each giving one pass.

    The target of Chen et al. 2021 (arXiv 2008.07032). The model that is asked is the one to be served: its
    answer ranks the top class. It is no member unless it is among `models`.

    Attributes:
        models: at least two, with answers of one shape, on one device.
        likelihood: what their output is.
    """

    models: Sequence[nn.Module]
    likelihood: Likelihood = "classification"

    def __post_init__(self) -> None:
        if len(self.models) < 2:
            raise ValueError(f"expected at least 2 models, got {len(self.models)}; a spread needs two")
        spreads.check_likelihood(self.likelihood)

    def __call__(self, model: nn.Module, x: State, *, generator: torch.Generator | None = None) -> Variation:
        """The variation over the members, for a batch; there is no randomness.

        Raises:
            ValueError: if outputs are not finite, or of another shape than the model's.
        """
        sums = spreads.init(self._answer(model, x), self.likelihood)
        for member in self.models:
            found = self._answer(member, x)
            if found.shape != sums.ordinary["value"].shape:
                raise ValueError(
                    f"expected members with an output of shape {tuple(sums.ordinary['value'].shape)}, as the model's, "
                    f"got {tuple(found.shape)}; use networks for the same task"
                )
            sums = spreads.update(sums, found[None])
        return spreads.variation(sums)

    def _answer(self, model: nn.Module, x: State) -> Tensor:
        with inference(model) as model:
            return spreads.outputs(call(model, x), self.likelihood)


@dataclass(frozen=True)
class Posterior:
    """A teacher: the spread of the outputs under a posterior over the weights of the last layer.

    Attributes:
        samples: from a batch to joint samples of the outputs, (S, N, C), such as `calibrated.logit_samples`;
            their second moments are taken as they are, with divisor S.
        likelihood: what the samples are.
    """

    samples: Callable[[State], Tensor]
    likelihood: Likelihood = "classification"

    def __post_init__(self) -> None:
        spreads.check_likelihood(self.likelihood)

    def __call__(self, model: nn.Module, x: State, *, generator: torch.Generator | None = None) -> Variation:
        """The variation over the samples, for a batch; their randomness is the callable's own.

        Raises:
            ValueError: if outputs are not finite, or samples are not (S, N, C) with S of at least 2.
        """
        with inference(model) as model:
            ordinary = spreads.outputs(call(model, x), self.likelihood)
            found = self.samples(x)
        if found.ndim != 3 or len(found) < 2 or found.shape[1:] != ordinary.shape:
            raise ValueError(
                f"expected samples (S, {', '.join(map(str, ordinary.shape))}) with S of at least 2, got shape "
                f"{tuple(found.shape)}; pass a function from a batch to joint samples of the outputs"
            )
        found = spreads.outputs(found.flatten(end_dim=1), self.likelihood).view(found.shape)
        sums = spreads.update(spreads.init(ordinary, self.likelihood), found)
        return spreads.variation(sums, divisor=sums.passes)
