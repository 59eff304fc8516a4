"""Base class of the posteriors: a Gaussian in float64 with an exchangeable prior precision."""

from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from suffice.storage.serializable import Serializable


class Gaussian(Serializable):
    """Base class of the posteriors, frozen dataclasses with `class_precision` and `prior_precision`."""

    storage_dtype: ClassVar = torch.float64
    offsets_shapes: ClassVar[tuple[str, str]]

    class_precision: Tensor
    prior_precision: Tensor

    def with_prior(self, prior_precision: float | Tensor) -> Self:
        """Return the posterior under another prior precision δ > 0, without a new decomposition."""
        delta = torch.as_tensor(prior_precision, dtype=torch.float64, device=self.class_precision.device)
        return replace(self, prior_precision=delta)  # type: ignore[type-var]

    def to(self, device: torch.device) -> Self:
        """Return the posterior on another device."""
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return replace(self, **moved)  # type: ignore[type-var]

    def compressed(self) -> Self:
        """Return a cheaper posterior for predictions at this δ; by default the posterior itself."""
        return self

    def log_marginal_likelihood(self, weights: Tensor, log_likelihood: float | Tensor = 0.0) -> Tensor:
        """Return Laplace's evidence, log-likelihood − ½(δ Σ_c γ_c‖W_c‖² + log det Π − log det(δΓ ⊗ I)), in nats.

        Args:
            weights: Trained weights W (C, D), at which the likelihood was expanded.
            log_likelihood: Log-likelihood of the training data at W, a sum; constant in δ.

        Returns:
            Scalar tensor, float64; differentiable in δ.
        """
        length = self.class_precision @ weights.to(self.class_precision).square().sum(dim=1)
        return log_likelihood - (self.prior_precision * length + self._log_det()) / 2

    def _log_det(self) -> Tensor:
        """Return log(det Π / det(δΓ ⊗ I)), differentiable in δ."""
        raise NotImplementedError

    def _widened(self, classes: int) -> Tensor:
        """Return γ for a head with more classes; new ones have 1."""
        return pad(self.class_precision, (0, classes - len(self.class_precision)), value=1.0)
