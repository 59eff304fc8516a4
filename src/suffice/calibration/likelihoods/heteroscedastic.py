"""Numbers whose noise the network gives itself: M means and then M log-variances, f = (μ, s), y_m ~ N(μ_m, exp s_m).

The posterior is over the weights of the means alone, the first M rows of the classifier; in them

    Λ = diag(exp(−s))

is exact, and predictions need no samples. Nix and Weigend 1994.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from suffice.batches import Batch
from suffice.calibration.likelihoods import gaussian
from suffice.calibration.likelihoods.gaussian import Exact
from suffice.calibration.likelihoods.stateless import Stateless
from suffice.calibration.links import Link
from suffice.calibration.posterior import Posterior, Structure
from suffice.calibration.posterior.curvature import Curvature
from suffice.calibration.posterior.moments import Offsets
from suffice.prediction import Regression


@dataclass(frozen=True)
class Likelihood(Stateless, Exact):
    """The Gaussian likelihood with given variances; targets are numbers (N, M), or (N,) where M = 1."""

    name: ClassVar[str] = "heteroscedastic"
    exact_structure: ClassVar[Structure | None] = None
    learns_noise: ClassVar[bool] = False
    widens: ClassVar[bool] = False
    temperatures: ClassVar[tuple[float, float]] = gaussian.TEMPERATURES

    @staticmethod
    def check_outputs(outputs: int) -> None:
        """Raise a ValueError unless the number is even."""
        if outputs % 2:
            raise ValueError(
                "expected an even number of outputs, M means and then M log-variances, for "
                f"likelihood='heteroscedastic', got a classifier with {outputs}; pass likelihood='regression' for means"
            )

    @staticmethod
    def latents(outputs: int) -> int:
        """M, the means."""
        return outputs // 2

    @staticmethod
    def structure(outputs: int) -> Structure:
        """All weights with each other where there is one mean, and nothing is approximated."""
        return "full" if outputs == 2 else "kronecker"

    @staticmethod
    def prior_precision(weights: Tensor) -> float:
        """That of weights as large as those of the means."""
        return gaussian.prior_precision(weights)

    @staticmethod
    def read(targets: Tensor, batch: Batch, outputs: int) -> Tensor:
        """Targets, float64 (N, M)."""
        return gaussian.read(targets, batch, outputs // 2)

    def curvature(self, outputs: Tensor) -> Curvature:
        """exp(−s) for each of the means, of outputs (N, 2M)."""
        return Curvature((-_split(outputs)[1].double()).exp(), None)

    def plugin(self, outputs: Tensor, temperature: Tensor | float) -> Regression:
        """The network's means with its noise alone, of outputs (N, 2M)."""
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
        """The network's means with its noise and the posterior's variance, of outputs (N, 2M)."""
        mean, log_variance = _split(outputs)
        return gaussian.predict(mean, posterior.variance(spectrum), log_variance.exp(), temperature)


def _split(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Means and log-variances, (N, M) each."""
    mean, log_variance = outputs.chunk(2, dim=-1)
    return mean, log_variance
