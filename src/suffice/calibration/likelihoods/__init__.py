"""What a network's outputs say about a target; a file each, with the same class, `Likelihood`.

Each says how wide its outputs are, how targets are read, how curved it is in its outputs, and what is answered from
outputs and their uncertainty. Choose the file by name; everything else asks the value and never the name.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal, Protocol, Self

import torch
from torch import Tensor

from suffice.batches import Batch, Loader, read_targets
from suffice.calibration.likelihoods import binary, classification, heteroscedastic, regression
from suffice.calibration.links import Link
from suffice.calibration.posterior import Posterior, Structure
from suffice.calibration.posterior.curvature import Curvature
from suffice.calibration.posterior.moments import Offsets
from suffice.network import ExitNetwork
from suffice.prediction import AnyPrediction
from suffice.storage.parts import Parts

Name = Literal["classification", "binary", "regression", "heteroscedastic"]


class Likelihood(Protocol):
    """What calibration and a calibrated exit ask of a likelihood."""

    name: ClassVar[str]
    exact_structure: ClassVar[Structure | None]
    """The structure that the posterior has exactly, where it has one: no other is of use."""

    learns_noise: ClassVar[bool]
    """Whether the noise is learned from the training targets, with δ, by `linear`."""

    widens: ClassVar[bool]
    """Whether outputs behind the others are further classes."""

    temperatures: ClassVar[tuple[float, float]]
    """Range searched for T."""

    @staticmethod
    def check_outputs(outputs: int) -> None:
        """Raise a ValueError unless a classifier of so many outputs can be read in this way."""

    @staticmethod
    def latents(outputs: int) -> int:
        """Outputs that have a posterior: the first so many."""

    @staticmethod
    def structure(outputs: int) -> Structure:
        """Structure to reach for first."""

    @staticmethod
    def prior_precision(weights: Tensor) -> float:
        """δ to begin with, given the weights (latents, D) that have a posterior."""

    @staticmethod
    def read(targets: Tensor, batch: Batch, outputs: int) -> Tensor:
        """Targets of a batch as `nll` takes them, checked; errors name the position."""

    def curvature(self, outputs: Tensor) -> Curvature:
        """Curvature in the outputs (N, outputs) that have a posterior."""

    def served(self, posterior: Posterior) -> Posterior:
        """The posterior that answers are served by, as near to it as they need."""

    def noise(self, posterior: Posterior) -> int:
        """Standard normals that one sample takes; 0 where nothing is sampled."""

    def offsets(self, posterior: Posterior, normals: Tensor) -> Offsets:
        """Offsets of samples from standard normals (S, noise)."""

    def offsets_shapes(self, posterior: Posterior) -> tuple[str, str]:
        """Shapes of their basis and values, as `suffice.storage.parts` writes them."""

    def macs(self, posterior: Posterior, offsets: Offsets | None) -> int:
        """Multiply-adds per example of an answer with its uncertainty, beyond the exit's own."""

    def plugin(self, outputs: Tensor, temperature: Tensor | float) -> AnyPrediction:
        """What the network alone answers."""

    def predict(
        self,
        outputs: Tensor,
        temperature: Tensor | float,
        posterior: Posterior,
        spectrum: Tensor,
        link: Link,
        offsets: Offsets | None,
    ) -> AnyPrediction:
        """What is answered from outputs (N, outputs), a posterior and the spectrum of φ."""

    def nll(self, prediction: Any, targets: Tensor) -> Tensor:
        """Negative log-likelihood (N,) in nats of targets, as `read` gives them, under a prediction."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """The same on another device and in another type."""

    def parts(self) -> dict[str, Tensor]:
        """Tensors of an artifact."""

    @classmethod
    def from_parts(cls, parts: Parts, outputs: int) -> Self:
        """The reverse of `parts`."""


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "classification": classification.Likelihood,
    "binary": binary.Likelihood,
    "regression": regression.Likelihood,
    "heteroscedastic": heteroscedastic.Likelihood,
}
"""The likelihoods by name."""


def read(loader: Loader, network: ExitNetwork, likelihood: Likelihood) -> Iterator[tuple[Batch, Tensor]]:
    """Batches with their targets, as the likelihood of a network's outputs reads them.

    Raises:
        ValueError: as `batches.read`; also for targets that the likelihood cannot have.
    """
    outputs = network.num_classes
    return read_targets(loader, network, lambda targets, batch: likelihood.read(targets, batch, outputs))
