"""Variation under the posterior of the last layer."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from suffice.attach.determinism import check_deterministic
from suffice.inputs import prepare
from suffice.network import State, call
from suffice.twin import inference
from suffice.variation.teachers import spreads
from suffice.variation.teachers.spreads import LikelihoodName, Variation


@dataclass(frozen=True)
class LaplaceTeacher:
    """Teacher that measures the spread of outputs under a posterior over the weights of the last layer.

    Attributes:
        samples: Function from a batch to joint samples of the outputs, (S, N, C), such as
            `calibrated.logit_samples`. Their second moments are taken as exact, with divisor S.
        likelihood: Meaning of the samples.

    Example:
        >>> import torch, suffice
        >>> x, y = torch.randn(60, 3), torch.arange(60) % 3
        >>> model = torch.nn.Linear(3, 3)
        >>> calibrated = suffice.calibrate(model, [(x, y)], None, tuning="evidence")
        >>> teacher = suffice.LaplaceTeacher(calibrated.logit_samples)
        >>> teacher(model, x)["std"].shape
        torch.Size([60])
    """

    samples: Callable[[State], Tensor]
    likelihood: LikelihoodName = "classification"

    def __post_init__(self) -> None:
        if not callable(self.samples):
            raise TypeError(
                f"expected a function from a batch to samples, got {self.samples!r}; pass calibrated.logit_samples"
            )
        spreads.check_likelihood(self.likelihood)

    def __call__(self, model: nn.Module, x: State, *, generator: torch.Generator | None = None) -> Variation:
        """Return the variation over the samples for a batch; the generator is not passed on to `samples`.

        Raises:
            ValueError: If outputs are not finite, samples are not of shape (S, N, C) with S of at least 2, or the model
                is not deterministic in evaluation mode.
        """
        x = prepare(x, model)
        with inference(model) as model:
            check_deterministic(model, x)
            deterministic = spreads.finite_outputs(call(model, x), self.likelihood)
            samples = self.samples(x)
        if not isinstance(samples, Tensor):
            raise TypeError(
                f"expected samples (S, N, C) as a tensor, got {type(samples).__name__}; pass calibrated.logit_samples"
            )
        if samples.ndim != 3 or len(samples) < 2 or samples.shape[1:] != deterministic.shape:
            raise ValueError(
                f"expected samples (S, {', '.join(map(str, deterministic.shape))}) with S of at least 2, got shape "
                f"{tuple(samples.shape)}; pass a function from a batch to joint samples of the outputs"
            )
        samples = spreads.finite_outputs(samples.flatten(end_dim=1), self.likelihood).view(samples.shape)
        sums = spreads.update(spreads.init(deterministic, self.likelihood), samples)
        return spreads.variation(sums, divisor=sums.passes)
