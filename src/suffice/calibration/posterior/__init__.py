"""Gaussian posteriors over one exit's classifier, one module for each structure.

Every module has the same names: `Statistics`, `init`, `update`, `merge`, `widen`, `memory` and `Posterior`.
"""

import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor

from suffice.calibration.posterior import blocks, diagonal, full, kronecker, lowrank
from suffice.calibration.posterior.moments import Moments, Offsets

Structure = Literal["kronecker", "full", "blocks", "diagonal", "lowrank"]

STRUCTURES: dict[str, ModuleType] = {
    "kronecker": kronecker,
    "full": full,
    "blocks": blocks,
    "diagonal": diagonal,
    "lowrank": lowrank,
}
"""Modules of the structures by name, the default first."""


class Posterior(Protocol):
    """Interface of a posterior of any structure, as a calibrated exit uses it.

    A posterior is stored in float64; results that depend on φ have the type of φ.
    """

    @property
    def structure(self) -> Structure:
        """Name of the structure in `STRUCTURES`."""

    @property
    def offsets_shapes(self) -> tuple[str, str]:
        """Shapes of the basis and the values of the offsets, in the notation of `suffice.storage.parts`."""

    @property
    def prior_precision(self) -> Tensor:
        """Prior precision δ, a scalar tensor."""

    @property
    def class_precision(self) -> Tensor:
        """Prior precisions γ (C,) of the classes relative to δ."""

    @property
    def num_normals(self) -> int:
        """Number of standard normals in one joint sample of the logits."""

    def with_prior(self, prior_precision: float | Tensor) -> Self:
        """Return the posterior under another prior precision δ > 0, without a new decomposition."""

    def statistics(self) -> Any:
        """Reconstruct the `Statistics` of the fit, so that data can be added later."""

    def refit(self, statistics: Any) -> Self:
        """Fit other statistics, float64, under the same prior."""

    def log_marginal_likelihood(self, weights: Tensor, log_likelihood: float | Tensor = 0.0) -> Tensor:
        """Return Laplace's evidence at the trained weights W (C, D), in nats; differentiable in δ."""

    def to(self, device: torch.device) -> Self:
        """Return the posterior on another device."""

    def compressed(self) -> Self:
        """Return a cheaper approximation for predictions at this δ, or the posterior itself."""

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the configuration and the tensors of an artifact."""

    def spectrum(self, phi: Tensor) -> Tensor:
        """Return the tensor from which the moments at φ (N, D) follow under any prior."""

    def covariance(self, phi: Tensor) -> Tensor:
        """Return the covariance (N, C, C) of the logits at φ (N, D)."""

    def moments(self, phi: Tensor, logits: Tensor) -> Moments:
        """Return the moments of the logits at φ (N, D); their mean is the network's logits (N, C)."""

    def variance(self, spectrum: Tensor) -> Tensor:
        """Return the variance (N, C) of the logits from the spectrum of φ."""

    def centered_variance(self, spectrum: Tensor) -> Tensor:
        """Return the variance (N, C) of the logits minus their class mean, from the spectrum of φ."""

    def joint_samples(self, phi: Tensor, samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Sample deviations (N, S, C) of the logits at φ (N, D); all rows share each of the S weight samples."""

    def sample_offsets(self, normals: Tensor) -> Offsets:
        """Build the offsets of joint samples from standard normals (S, num_normals)."""

    def coefficients(self, spectrum: Tensor, offsets: Offsets) -> Tensor:
        """Return the coefficients (N, R) of the offsets from the spectrum of φ."""

    def macs(self, offsets: Offsets | None) -> int:
        """Count multiply-adds per example of the joint samples, or of the variance if `offsets` is None."""


def check_memory(structure: str, widths: Sequence[int], classes: int, device: torch.device) -> None:
    """Raise a MemoryError, before any allocation, if the posteriors of all exits would not fit into memory.

    Args:
        structure: Name of a structure.
        widths: Width D of φ at each exit, the constant of a bias included.
        classes: Number of classes C.
        device: Device of the sums.

    Raises:
        MemoryError: If the sums and their decomposition would not fit; the message names the structures that do.
    """
    available = _available(device)
    needs = {name: sum(module.memory(width, classes) for width in widths) for name, module in STRUCTURES.items()}
    if needs[structure] <= available:
        return
    fitting = [name for name, need in needs.items() if need <= available]
    remedy = f"choose structure={' or '.join(map(repr, fitting))}" if fitting else "use a machine with more memory"
    features = " + ".join(map(str, widths))
    raise MemoryError(
        f"expected room for a {structure} posterior of {features} features and {classes} classes, about "
        f"{needs[structure] / 1e9:.1f} GB, got {available / 1e9:.1f} GB on {device}; {remedy}"
    )


def _available(device: torch.device) -> int:
    """Return the free bytes of a device; for the CPU, half of the machine's memory."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
