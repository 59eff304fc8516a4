"""Mixin for likelihoods without tensors."""

from typing import Self

import torch
from torch import Tensor

from suffice.storage.parts import Parts


class Stateless:
    """Mixin of likelihoods without tensors: nothing to move and nothing to save."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """Return the likelihood itself."""
        return self

    def parts(self) -> dict[str, Tensor]:
        """Return no tensors."""
        return {}

    @classmethod
    def from_parts(cls, parts: Parts, outputs: int) -> Self:
        """Restore a likelihood from the parts of an artifact."""
        return cls()
