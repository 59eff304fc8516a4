"""What both regressions share: targets, and Gaussian answers.

    y ~ N(μ, T²(v + σ²))

v is the variance of the mean under the posterior, σ² the noise. T stretches both: under noise T²σ² and prior precision
δ/T² the posterior is the one under σ² and δ with T² times its variance, so T is the noise's scale, in units of σ.
"""

import torch
from torch import Tensor

from suffice.batches import Batch
from suffice.calibration.posterior import Posterior
from suffice.calibration.posterior.moments import Offsets
from suffice.network import check_finite
from suffice.prediction import Regression

TEMPERATURES = (1e-2, 1e7)
"""Range searched for T: wide, as a network that fits its training targets leaves next to no noise in them."""


def read(targets: Tensor, batch: Batch, width: int) -> Tensor:
    """Targets of a batch as (N, C), float64.

    Raises:
        ValueError: unless they are finite real numbers, (N, C), or (N,) where C = 1.
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
    """One over the mean square of weights (C, D): numbers have a unit, and δ is in one over its square."""
    return 1 / max(float(weights.double().square().mean()), 1e-30)


def predict(mean: Tensor, variance: Tensor, noise: Tensor, temperature: Tensor | float) -> Regression:
    """Gaussian of mean (N, C), variance of the mean and noise variance, each that broadcasts to (N, C)."""
    stretch = temperature**2
    return Regression(mean, (stretch * variance).expand_as(mean), (stretch * noise).expand_as(mean))


class Exact:
    """What a `Likelihood` whose answers are exact does about links: nothing is sampled, nothing compressed."""

    def served(self, posterior: Posterior) -> Posterior:
        """Itself: its variance is the answer."""
        return posterior

    def noise(self, posterior: Posterior) -> int:
        """0: moments are all there is."""
        return 0

    def offsets(self, posterior: Posterior, normals: Tensor) -> Offsets:
        """The posterior's own; predictions do not use them."""
        return posterior.sample_offsets(normals)

    def offsets_shapes(self, posterior: Posterior) -> tuple[str, str]:
        """The posterior's own."""
        return posterior.offsets_shapes

    def macs(self, posterior: Posterior, offsets: Offsets | None) -> int:
        """The variance."""
        return posterior.macs(None)

    def nll(self, prediction: Regression, targets: Tensor) -> Tensor:
        """−log N(y; mean, variance) (N,), nats, summed over the outputs."""
        return -prediction.log_density(targets)
