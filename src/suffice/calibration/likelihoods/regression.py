"""Numbers with a noise of their own variance for each output: y_c ~ N(f_c, σ_c²).

    Λ = diag(1/σ²), the same for every example

so that the posterior is exactly Kronecker, U = diag(n/σ²) and A the mean moment of the features, and so is every
prediction: nothing is sampled, and no link but "plugin" changes it. σ² and δ are those of greatest evidence
(`linear`).
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from suffice.batches import Batch
from suffice.calibration.likelihoods import gaussian
from suffice.calibration.likelihoods.gaussian import Exact
from suffice.calibration.links import Link
from suffice.calibration.posterior import Posterior, Structure
from suffice.calibration.posterior.curvature import Curvature
from suffice.calibration.posterior.moments import Offsets
from suffice.prediction import Regression
from suffice.storage.parts import POSITIVE, Parts
from suffice.storage.stored import Stored


@dataclass(frozen=True)
class Likelihood(Exact, Stored):
    """The Gaussian likelihood; targets are numbers (N, C), or (N,) where C = 1.

    Attributes:
        noise_variance: σ², (C,), in the targets' unit squared; 1 until learned.
    """

    noise_variance: Tensor = field(default_factory=lambda: torch.ones(1, dtype=torch.float64))

    name: ClassVar[str] = "regression"
    exact_structure: ClassVar[Structure | None] = "kronecker"
    learns_noise: ClassVar[bool] = True
    widens: ClassVar[bool] = False
    temperatures: ClassVar[tuple[float, float]] = gaussian.TEMPERATURES

    @staticmethod
    def check_outputs(outputs: int) -> None:
        """Any number will do."""

    @staticmethod
    def latents(outputs: int) -> int:
        """C."""
        return outputs

    @staticmethod
    def structure(outputs: int) -> Structure:
        """The one that is exact."""
        return "kronecker"

    @staticmethod
    def prior_precision(weights: Tensor) -> float:
        """That of weights as large as these; in place of it comes the one of greatest evidence."""
        return gaussian.prior_precision(weights)

    @staticmethod
    def read(targets: Tensor, batch: Batch, outputs: int) -> Tensor:
        """Targets, float64 (N, C)."""
        return gaussian.read(targets, batch, outputs)

    def curvature(self, outputs: Tensor) -> Curvature:
        """1/σ² for each of the means (N, C)."""
        return Curvature((1 / self.noise_variance.double()).expand(outputs.shape), None)

    def plugin(self, outputs: Tensor, temperature: Tensor | float) -> Regression:
        """The network's means (N, C) with noise alone."""
        return gaussian.predict(outputs, outputs.new_zeros(()), self.noise_variance, temperature)

    def predict(
        self,
        outputs: Tensor,
        temperature: Tensor | float,
        posterior: Posterior,
        spectrum: Tensor,
        link: Link,
        offsets: Offsets | None,
    ) -> Regression:
        """The network's means (N, C) with noise and the posterior's variance."""
        return gaussian.predict(outputs, posterior.variance(spectrum), self.noise_variance, temperature)

    def to(self, device: torch.device, dtype: torch.dtype) -> "Likelihood":
        """The same on another device and in another type."""
        return Likelihood(self.noise_variance.to(device, dtype))

    def parts(self) -> dict[str, Tensor]:
        """Tensors of an artifact."""
        return {"noise_variance": self.noise_variance}

    @classmethod
    def from_parts(cls, parts: Parts, outputs: int) -> "Likelihood":
        """The reverse of `parts`."""
        return cls(parts.tensor("noise_variance", f"{outputs}", POSITIVE))
