"""Likelihoods of a target given the outputs of a network, one module with a class `Likelihood` for each.

A likelihood defines the number of outputs, the validation of targets, the curvature in the outputs, and the prediction
from outputs and their uncertainty. Only `LIKELIHOODS` maps names to classes; all other code calls their methods.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal, Protocol, Self

import torch
from torch import Tensor

from suffice.batches import Batch, Loader, read_targets
from suffice.calibration.likelihoods import binary, classification, heteroscedastic, multilabel, regression
from suffice.calibration.links import Link
from suffice.calibration.posterior import Posterior, Structure
from suffice.calibration.posterior.curvature import Curvature
from suffice.calibration.posterior.moments import Offsets
from suffice.network import ExitNetwork
from suffice.prediction import AnyPrediction
from suffice.storage.parts import Parts

Name = Literal["classification", "binary", "multilabel", "regression", "heteroscedastic"]


class Likelihood(Protocol):
    """Interface of a likelihood, as calibration and a calibrated exit use it."""

    name: ClassVar[str]
    exact_structure: ClassVar[Structure | None]
    """Structure that represents the posterior exactly, or None; no other structure is then accepted."""

    learns_noise: ClassVar[bool]
    """True if the noise is learned from the training targets, together with δ, by `linear`."""

    widens: ClassVar[bool]
    """True if outputs can be added as new classes or labels."""

    discrete: ClassVar[bool]
    """True if predictions are probabilities of classes or labels, so that they have errors and products."""

    temperatures: ClassVar[tuple[float, float]]
    """Search range of the temperature T, in its unit."""

    @staticmethod
    def check_outputs(outputs: int) -> None:
        """Raise a ValueError unless a classifier with this number of outputs fits the likelihood."""

    @staticmethod
    def labels(outputs: int) -> tuple[int, int]:
        """Return the number of labels of an example and the number of values of each; zeros if targets are numbers."""

    @staticmethod
    def latents(outputs: int) -> int:
        """Return the number of outputs with a posterior; they come first."""

    @staticmethod
    def structure(outputs: int) -> Structure:
        """Return the default structure of the posterior."""

    @staticmethod
    def prior_precision(weights: Tensor) -> float:
        """Return the initial δ for the weights (latents, D) with a posterior."""

    @staticmethod
    def output_unit(outputs: Tensor) -> float:
        """Return the unit of outputs (N, outputs), about which T is searched, and δ about its inverse square."""

    @staticmethod
    def read(targets: Tensor, batch: Batch, outputs: int) -> Tensor:
        """Validate the targets of a batch and convert them for `nll`; errors name the position."""

    def curvature(self, outputs: Tensor) -> Curvature:
        """Return the curvature in the outputs with a posterior, at outputs (N, outputs)."""

    def serving_posterior(self, posterior: Posterior) -> Posterior:
        """Return the posterior or a cheaper approximation that is accurate enough for predictions."""

    def num_normals(self, posterior: Posterior) -> int:
        """Return the number of standard normals in one sample; 0 for predictions in closed form."""

    def offsets(self, posterior: Posterior, normals: Tensor) -> Offsets:
        """Build the offsets of samples from standard normals (S, num_normals)."""

    def offsets_shapes(self, posterior: Posterior) -> tuple[str, str]:
        """Return the shapes of their basis and values, in the notation of `suffice.storage.parts`."""

    def logit_samples(self, outputs: Tensor, posterior: Posterior, spectrum: Tensor, offsets: Offsets) -> Tensor:
        """Return the samples (S, N, outputs) of the outputs that predictions average, before any temperature."""

    def macs(self, posterior: Posterior, offsets: Offsets | None) -> int:
        """Count the multiply-adds per example that the uncertainty adds to those of the exit."""

    def plugin(self, outputs: Tensor, temperature: Tensor | float) -> AnyPrediction:
        """Predict from outputs (N, outputs) without a posterior."""

    def predict(
        self,
        outputs: Tensor,
        temperature: Tensor | float,
        posterior: Posterior,
        spectrum: Tensor,
        link: Link,
        offsets: Offsets | None,
    ) -> AnyPrediction:
        """Predict from outputs (N, outputs), a posterior and the spectrum of φ."""

    def nll(self, prediction: Any, targets: Tensor) -> Tensor:
        """Return the negative log-likelihood (N,) in nats of targets from `read` under a prediction."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """Move to a device and convert to a floating type."""

    def parts(self) -> dict[str, Tensor]:
        """Return the tensors of an artifact."""

    @classmethod
    def from_parts(cls, parts: Parts, outputs: int) -> Self:
        """Restore a likelihood from the parts of an artifact."""


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "classification": classification.Likelihood,
    "binary": binary.Likelihood,
    "multilabel": multilabel.Likelihood,
    "regression": regression.Likelihood,
    "heteroscedastic": heteroscedastic.Likelihood,
}
"""Classes of the likelihoods by name."""


def read(loader: Loader, network: ExitNetwork, likelihood: Likelihood) -> Iterator[tuple[Batch, Tensor]]:
    """Yield batches with their targets, validated by the likelihood.

    Raises:
        ValueError: If `batches.read_targets` raises one, or a target is invalid under the likelihood.
    """
    outputs = network.num_classes
    return read_targets(loader, network, lambda targets, batch: likelihood.read(targets, batch, outputs))
