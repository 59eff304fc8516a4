"""Regression with predicted noise: M means and then M log-variances, f = (μ, s), y_m ~ N(μ_m, exp s_m).

The posterior is over the weights of the means only, the first M rows of the classifier. Their curvature

    Λ = diag(exp(−s))

is exact, and predictions need no samples. Nix and Weigend 1994.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from suffice.batches import Batch
from suffice.calibration.likelihoods import gaussian
from suffice.calibration.likelihoods.gaussian import ClosedForm
from suffice.calibration.likelihoods.stateless import Stateless
from suffice.calibration.links import Link
from suffice.calibration.posterior import Posterior, Structure
from suffice.calibration.posterior.curvature import Curvature
from suffice.calibration.posterior.moments import Offsets
from suffice.prediction import Regression


@dataclass(frozen=True)
class Likelihood(Stateless, ClosedForm):
    """Gaussian likelihood with predicted variances of targets (N, M), or (N,) where M = 1."""

    name: ClassVar[str] = "heteroscedastic"
    exact_structure: ClassVar[Structure | None] = None
    learns_noise: ClassVar[bool] = False
    widens: ClassVar[bool] = False
    temperatures: ClassVar[tuple[float, float]] = gaussian.TEMPERATURES

    @staticmethod
    def check_outputs(outputs: int) -> None:
        """Raise a ValueError unless the number of outputs is even."""
        if outputs % 2:
            raise ValueError(
                "expected an even number of outputs, M means and then M log-variances, for "
                f"likelihood='heteroscedastic', got a classifier with {outputs}; pass likelihood='regression' for means"
            )

    @staticmethod
    def latents(outputs: int) -> int:
        """Return the number of means M."""
        return outputs // 2

    @staticmethod
    def structure(outputs: int) -> Structure:
        """Return "full" for one mean, where it is exact and cheap, else "kronecker"."""
        return "full" if outputs == 2 else "kronecker"

    @staticmethod
    def prior_precision(weights: Tensor) -> float:
        """Return the prior precision of weights as large as those of the means."""
        return gaussian.prior_precision(weights)

    @staticmethod
    def read(targets: Tensor, batch: Batch, outputs: int) -> Tensor:
        """Validate the targets and return them as float64 (N, M)."""
        return gaussian.read(targets, batch, outputs // 2)

    def curvature(self, outputs: Tensor) -> Curvature:
        """Return the curvature exp(−s) of each mean at outputs (N, 2M)."""
        return Curvature((-_split(outputs)[1].double()).exp(), None)

    def plugin(self, outputs: Tensor, temperature: Tensor | float) -> Regression:
        """Predict means with their noise only, from outputs (N, 2M)."""
        mean, log_variance = _split(outputs)
        return gaussian.predict(mean, mean.new_zeros(()), log_variance.exp(), temperature)

    def predict(
        self,
        outputs: Tensor,
        temperature: Tensor | float,
        posterior: Posterior,
        spectrum: Tensor,
        link: Link,
        offsets: Offsets | None,
    ) -> Regression:
        """Predict means with their noise and the variance under the posterior, from outputs (N, 2M)."""
        mean, log_variance = _split(outputs)
        return gaussian.predict(mean, posterior.variance(spectrum), log_variance.exp(), temperature)


def _split(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return means and log-variances, (N, M) each."""
    mean, log_variance = outputs.chunk(2, dim=-1)
    return mean, log_variance
