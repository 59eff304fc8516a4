"""Targets and Gaussian predictions, shared by both regression likelihoods.

    y ~ N(μ, T²(v + σ²))

v is the variance of the mean under the posterior, σ² the noise variance. T scales both: the posterior under noise T²σ²
and prior precision δ/T² has T² times the variance of the one under σ² and δ, so T is the noise scale in units of σ.
"""

from typing import ClassVar

import torch
from torch import Tensor

from suffice.batches import Batch
from suffice.calibration.posterior import Posterior
from suffice.calibration.posterior.moments import Offsets
from suffice.network import check_finite
from suffice.prediction import Regression

TEMPERATURES = (1e-2, 1e7)
"""Search range of T; wide, because a network that fits its training targets exactly leaves almost no noise."""


def read(targets: Tensor, batch: Batch, width: int) -> Tensor:
    """Validate the targets of a batch and return them as float64 (N, C).

    Raises:
        ValueError: Unless they are finite real numbers, (N, C), or (N,) where C = 1.
    """
    shapes = [(batch.size, width)] + [(batch.size,)] * (width == 1)
    if tuple(targets.shape) not in shapes or targets.is_complex() or targets.dtype == torch.bool:
        raise ValueError(
            f"expected numbers of shape {' or '.join(map(str, shapes))} as targets, "
            f"got {targets.dtype} of shape {tuple(targets.shape)} from position {batch.start}"
        )
    check_finite(targets, "targets", batch.start)
    return targets.double().reshape(batch.size, width)


def prior_precision(weights: Tensor) -> float:
    """Return the inverse mean square of weights (C, D): δ is in inverse squared units of the targets."""
    return 1 / max(float(weights.double().square().mean()), 1e-30)


def predict(mean: Tensor, variance: Tensor, noise: Tensor, temperature: Tensor | float) -> Regression:
    """Predict a Gaussian with mean (N, C); its variance and the noise variance broadcast to (N, C)."""
    scale = temperature**2
    return Regression(mean, (scale * variance).expand_as(mean), (scale * noise).expand_as(mean))


class ClosedForm:
    """Mixin of likelihoods with predictions in closed form: nothing is sampled or approximated."""

    discrete: ClassVar[bool] = False

    @staticmethod
    def labels(outputs: int) -> tuple[int, int]:
        """Return zeros, as targets are numbers."""
        return 0, 0

    @staticmethod
    def output_unit(outputs: Tensor) -> float:
        """Return 1, as T is in units of the noise and δ in those of the weights."""
        return 1.0

    def serving_posterior(self, posterior: Posterior) -> Posterior:
        """Return the posterior itself, as predictions contain its variance."""
        return posterior

    def num_normals(self, posterior: Posterior) -> int:
        """Return 0, as predictions need only moments."""
        return 0

    def offsets(self, posterior: Posterior, normals: Tensor) -> Offsets:
        """Build the posterior's offsets, which predictions do not use."""
        return posterior.sample_offsets(normals)

    def offsets_shapes(self, posterior: Posterior) -> tuple[str, str]:
        """Return the shapes that the posterior defines."""
        return posterior.offsets_shapes

    def logit_samples(self, outputs: Tensor, posterior: Posterior, spectrum: Tensor, offsets: Offsets) -> Tensor:
        """Raise a ValueError, as predictions are in closed form."""
        raise ValueError("expected a likelihood with sampled predictions, got a regression; use joint_samples")

    def macs(self, posterior: Posterior, offsets: Offsets | None) -> int:
        """Count the multiply-adds of the variance."""
        return posterior.macs(None)

    def nll(self, prediction: Regression, targets: Tensor) -> Tensor:
        """Return −log N(y; mean, variance) (N,), in nats, summed over the outputs."""
        return -prediction.log_density(targets)
