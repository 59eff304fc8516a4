"""What all structures of a posterior share: a Gaussian in float64, whose prior can be exchanged."""

from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from suffice.storage.stored import Stored


class Gaussian(Stored):
    """Base of the posteriors: frozen dataclasses with the fields `class_precision` and `prior_precision`."""

    kept_in: ClassVar = torch.float64
    offsets_shapes: ClassVar[tuple[str, str]]

    class_precision: Tensor
    prior_precision: Tensor

    def with_prior(self, prior_precision: float | Tensor) -> Self:
        """The same posterior under another prior precision δ > 0; nothing is decomposed again."""
        delta = torch.as_tensor(prior_precision, dtype=torch.float64, device=self.class_precision.device)
        return replace(self, prior_precision=delta)  # type: ignore[type-var]

    def to(self, device: torch.device) -> Self:
        """The same posterior on another device."""
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return replace(self, **moved)  # type: ignore[type-var]

    def compressed(self) -> Self:
        """A posterior for serving at this δ: itself, where a structure has nothing to save."""
        return self

    def log_marginal_likelihood(self, weights: Tensor, log_likelihood: float | Tensor = 0.0) -> Tensor:
        """Laplace's evidence in nats, log-likelihood − ½(δ Σ_c γ_c‖W_c‖² + log det Π − log det(δΓ ⊗ I)).

        Args:
            weights: W (C, D), the trained weights at which the likelihood was expanded.
            log_likelihood: of the training data there, a sum; a constant in δ.

        Returns:
            A scalar, float64; differentiable in δ.
        """
        length = self.class_precision @ weights.to(self.class_precision).square().sum(dim=1)
        return log_likelihood - (self.prior_precision * length + self._log_det()) / 2

    def _log_det(self) -> Tensor:
        """Logarithm of det Π / det(δΓ ⊗ I), differentiable in δ."""
        raise NotImplementedError

    def _widened(self, classes: int) -> Tensor:
        """γ for a head of more classes; the new ones have 1."""
        return pad(self.class_precision, (0, classes - len(self.class_precision)), value=1.0)
