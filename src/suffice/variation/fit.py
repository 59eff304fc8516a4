"""What is learned about a spread: how features become inputs, and a small network from those to the spread."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from suffice.modes import full_precision
from suffice.variation import regressor, spreads
from suffice.variation.scaling import Scaled, Scaling


@dataclass(frozen=True)
class Fit:
    """A spread, estimated from features.

    Attributes:
        target: which spread.
        scaling: how features become inputs.
        weights: of the small network: matrix, bias, matrix, bias, ….
        unit: mean of the training labels, deviations squared.
        bounds: least and greatest answer.
        limit: root mean square of standard scores above which an input is outside.
        passes: T of the labels that it learned from.
    """

    target: str
    scaling: Scaling = field(repr=False)
    weights: tuple[Tensor, ...] = field(repr=False)
    unit: float
    bounds: tuple[float, float]
    limit: float
    passes: int

    def __call__(self, features: Tensor) -> Tensor:
        """Estimates (N,) float32 of features (N, F)."""
        return self.estimate(features)[0]

    def estimate(self, features: Tensor) -> tuple[Tensor, Scaled]:
        """The same, and the inputs that they were made from."""
        scaled = self.scaling.apply(features)
        with full_precision():
            value = regressor.variance(regressor.forward(self.weights, scaled.inputs)).mul_(self.unit)
        return value.pow_(1 / spreads.power(self.target)).clamp_(*self.bounds), scaled

    @property
    def macs(self) -> int:
        """Multiply-adds per example."""
        return regressor.macs(self.weights)

    def to(self, device: torch.device) -> "Fit":
        """The same on another device."""
        weights = tuple(weight.to(device) for weight in self.weights)
        return replace(self, scaling=self.scaling.to(device), weights=weights)

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Configuration and tensors of an artifact."""
        configuration = {name: getattr(self, name) for name in _NUMBERS}
        return configuration, named(self.scaling, self.weights)

    @classmethod
    def from_parts(
        cls, configuration: dict[str, Any], tensors: dict[str, Tensor], device: torch.device | None = None
    ) -> "Fit":
        """The reverse of `parts`, on a device."""
        scaling, weights = from_named(tensors, device)
        low, high = configuration["bounds"]
        return cls(scaling=scaling, weights=weights, **{**configuration, "bounds": (low, high)})


_NUMBERS = ("target", "unit", "bounds", "limit", "passes")


def named(scaling: Scaling, weights: Sequence[Tensor]) -> dict[str, Tensor]:
    """Tensors of an artifact."""
    tensors = {f"scaling.{name}": tensor for name, tensor in vars(scaling).items()}
    return tensors | {f"weights.{i}": tensor for i, tensor in enumerate(weights)}


def from_named(tensors: Mapping[str, Tensor], device: torch.device | None = None) -> tuple[Scaling, tuple[Tensor, ...]]:
    """The reverse of `named`, on a device."""
    count = sum(name.startswith("weights.") for name in tensors)
    scaling = Scaling(*(tensors[f"scaling.{name}"].to(device) for name in Scaling.__dataclass_fields__))
    return scaling, tuple(tensors[f"weights.{i}"].to(device) for i in range(count))
