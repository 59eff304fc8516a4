"""Regression with one constant noise variance per output: y_c ~ N(f_c, σ_c²).

    Λ = diag(1/σ²), the same for every example

so the posterior is exactly Kronecker, with U = diag(n/σ²) and A the mean moment of the features, and predictions are
exact: nothing is sampled, and all links but "plugin" are equal. σ² and δ maximize the evidence (`linear`).
"""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from suffice.batches import Batch
from suffice.calibration.likelihoods import gaussian
from suffice.calibration.likelihoods.gaussian import ClosedForm
from suffice.calibration.links import Link
from suffice.calibration.posterior import Posterior, Structure
from suffice.calibration.posterior.curvature import Curvature
from suffice.calibration.posterior.moments import Offsets
from suffice.prediction import Regression
from suffice.storage.parts import POSITIVE, Parts
from suffice.storage.serializable import Serializable


@dataclass(frozen=True)
class Likelihood(ClosedForm, Serializable):
    """Gaussian likelihood of targets (N, C), or (N,) where C = 1.

    Attributes:
        noise_variance: Noise variance σ², (C,), in squared units of the targets; 1 before it is learned.
    """

    noise_variance: Tensor = field(default_factory=lambda: torch.ones(1, dtype=torch.float64))

    name: ClassVar[str] = "regression"
    exact_structure: ClassVar[Structure | None] = "kronecker"
    learns_noise: ClassVar[bool] = True
    widens: ClassVar[bool] = False
    temperatures: ClassVar[tuple[float, float]] = gaussian.TEMPERATURES

    @staticmethod
    def check_outputs(outputs: int) -> None:
        """Accept any number of outputs."""

    @staticmethod
    def latents(outputs: int) -> int:
        """Return the number of outputs C."""
        return outputs

    @staticmethod
    def structure(outputs: int) -> Structure:
        """Return "kronecker", which is exact."""
        return "kronecker"

    @staticmethod
    def prior_precision(weights: Tensor) -> float:
        """Return the prior precision of weights as large as these, where the search for the evidence starts."""
        return gaussian.prior_precision(weights)

    @staticmethod
    def read(targets: Tensor, batch: Batch, outputs: int) -> Tensor:
        """Validate the targets and return them as float64 (N, C)."""
        return gaussian.read(targets, batch, outputs)

    def curvature(self, outputs: Tensor) -> Curvature:
        """Return the curvature 1/σ² of each mean (N, C)."""
        return Curvature((1 / self.noise_variance.double()).expand(outputs.shape), None)

    def plugin(self, outputs: Tensor, temperature: Tensor | float) -> Regression:
        """Predict means (N, C) with noise only."""
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
        """Predict means (N, C) with noise and the variance under the posterior."""
        return gaussian.predict(outputs, posterior.variance(spectrum), self.noise_variance, temperature)

    def to(self, device: torch.device, dtype: torch.dtype) -> "Likelihood":
        """Move to a device and convert to a floating type."""
        return Likelihood(self.noise_variance.to(device, dtype))

    def parts(self) -> dict[str, Tensor]:
        """Return the tensors of an artifact."""
        return {"noise_variance": self.noise_variance}

    @classmethod
    def from_parts(cls, parts: Parts, outputs: int) -> "Likelihood":
        """Restore a likelihood from the parts of an artifact."""
        return cls(parts.tensor("noise_variance", f"{outputs}", POSITIVE))
