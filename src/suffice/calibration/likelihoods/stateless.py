"""For likelihoods that learn nothing: the same wherever they go, and nothing to write down."""

from typing import Self

import torch
from torch import Tensor

from suffice.storage.parts import Parts


class Stateless:
    """What a `Likelihood` without tensors does about them."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """The same."""
        return self

    def parts(self) -> dict[str, Tensor]:
        """No tensors."""
        return {}

    @classmethod
    def from_parts(cls, parts: Parts, outputs: int) -> Self:
        """The reverse of `parts`."""
        return cls()
