"""What a teacher is: a callable that measures the variation of predictions."""

from typing import Protocol

import torch
from torch import nn

from suffice.network import State
from suffice.variation.teachers.spreads import Variation


class Teacher(Protocol):
    """Anything that says how predictions vary: its answer is what an estimator learns."""

    def __call__(self, model: nn.Module, x: State, *, generator: torch.Generator | None = None) -> Variation:
        """The variation of the model's predictions for a batch x."""
