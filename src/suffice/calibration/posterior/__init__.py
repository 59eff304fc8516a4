"""Gaussian posteriors over one exit's classifier; sibling files with the same names.

`Statistics`, `init`, `update`, `merge`, `widen` and `Posterior`: choose the file by the name of the structure.
"""

import os
from types import ModuleType
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor

from suffice.calibration.posterior import diagonal, full, kronecker, lowrank
from suffice.calibration.posterior.moments import Moments, Offsets

Structure = Literal["kronecker", "full", "diagonal", "lowrank"]

STRUCTURES: dict[str, ModuleType] = {
    "kronecker": kronecker,
    "full": full,
    "diagonal": diagonal,
    "lowrank": lowrank,
}
"""The structures by name, with the one to reach for first in front."""


class Posterior(Protocol):
    """What a calibrated exit asks of a posterior, whatever its structure.

    A posterior is float64; what it returns about φ is in the type of φ.
    """

    @property
    def structure(self) -> Structure:
        """Its name in `STRUCTURES`."""

    @property
    def offsets_shapes(self) -> tuple[str, str]:
        """Shapes of the basis and the values of its offsets, as `suffice.storage.parts` writes them."""

    @property
    def prior_precision(self) -> Tensor:
        """δ, a scalar."""

    @property
    def class_precision(self) -> Tensor:
        """γ (C,), the classes' prior precisions relative to δ."""

    @property
    def noise(self) -> int:
        """Standard normals that one joint sample of the logits takes."""

    def with_prior(self, prior_precision: float | Tensor) -> Self:
        """The same posterior under another prior precision δ > 0; nothing is decomposed again."""

    def statistics(self) -> Any:
        """The `Statistics` that it was fitted to, put together again, so that data can be added later."""

    def refit(self, statistics: Any) -> Self:
        """The posterior of other statistics, float64, under the same prior."""

    def log_marginal_likelihood(self, weights: Tensor, log_likelihood: float | Tensor = 0.0) -> Tensor:
        """Laplace's evidence at the trained weights W (C, D), in nats; differentiable in δ."""

    def to(self, device: torch.device) -> Self:
        """The same posterior on another device."""

    def compressed(self) -> Self:
        """A posterior for serving at this δ, as near as serving needs; itself where there is nothing to save."""

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Configuration and tensors of an artifact."""

    def spectrum(self, phi: Tensor) -> Tensor:
        """All that the posterior needs of φ (N, D), whatever the prior."""

    def covariance(self, phi: Tensor) -> Tensor:
        """Covariance of the logits, (N, C, C)."""

    def moments(self, phi: Tensor, logits: Tensor) -> Moments:
        """Moments of the logits at φ (N, D), whose mean is the network's own logits (N, C)."""

    def variance(self, spectrum: Tensor) -> Tensor:
        """Variance (N, C) of the logits, from the spectrum of φ."""

    def visible_variance(self, spectrum: Tensor) -> Tensor:
        """Variance (N, C) of the logits less their mean over the classes, from the spectrum of φ."""

    def joint_samples(self, phi: Tensor, samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Deviations (N, S, C) of the logits at φ (N, D): S draws of the weights, each the same for every row."""

    def sample_offsets(self, normals: Tensor) -> Offsets:
        """Offsets of joint samples from standard normals (S, noise)."""

    def coefficients(self, spectrum: Tensor, offsets: Offsets) -> Tensor:
        """Coordinates (N, R) in the basis of the offsets, from the spectrum of φ."""

    def macs(self, offsets: Offsets | None) -> int:
        """Multiply-adds per example of joint samples, or of the variance where there are none."""


def check_memory(structure: str, features: int, classes: int, device: torch.device) -> None:
    """Refuse a structure whose sums and decomposition would not fit into memory, before anything is allocated.

    Args:
        structure: name of a structure.
        features: D, the constant 1 for a bias included.
        classes: C.
        device: where the sums are kept.

    Raises:
        MemoryError: naming the estimate, what there is, and the structures that fit.
    """
    available = _available(device)
    needs = {name: module.memory(features, classes) for name, module in STRUCTURES.items()}
    if needs[structure] <= available:
        return
    fitting = [name for name, need in needs.items() if need <= available]
    remedy = f"choose structure={' or '.join(map(repr, fitting))}" if fitting else "use a machine with more memory"
    raise MemoryError(
        f"expected room for a {structure} posterior of {features} features and {classes} classes, about "
        f"{needs[structure] / 1e9:.1f} GB, got {available / 1e9:.1f} GB on {device}; {remedy}"
    )


def _available(device: torch.device) -> int:
    """Bytes free on a device; on the processor, half of the machine's."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
