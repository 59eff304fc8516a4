"""What is learned about a spread: how features become inputs, and a small network from those to the spread."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from suffice.variation import regressor, spreads
from suffice.variation.scaling import Scaling


@dataclass(frozen=True)
class Fit:
    """Scaling and weights of a small network, the unit and bounds of its answers, passes of its labels."""

    scaling: Scaling
    weights: list[Tensor]
    unit: float
    bounds: tuple[float, float]
    limit: float
    passes: int

    def estimate(self, features: Tensor, target: str) -> Tensor:
        """Estimates (N,) float32 of features (N, F)."""
        inputs = self.scaling.apply(features).inputs
        value = self.unit * regressor.variance(regressor.forward(self.weights, inputs))
        return value.pow(1 / spreads.power(target)).clamp(*self.bounds)

    def to(self, device: torch.device) -> "Fit":
        """The same on another device."""
        return replace(self, scaling=self.scaling.to(device), weights=[weight.to(device) for weight in self.weights])

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Configuration and tensors of an artifact."""
        configuration = {name: getattr(self, name) for name in ("unit", "bounds", "limit", "passes")}
        return configuration, named(self.scaling, self.weights)

    @classmethod
    def from_parts(cls, configuration: dict[str, Any], tensors: dict[str, Tensor]) -> "Fit":
        """The reverse of `parts`."""
        low, high = configuration["bounds"]
        return cls(*from_named(tensors), **{**configuration, "bounds": (low, high)})


def named(scaling: Scaling, weights: Sequence[Tensor]) -> dict[str, Tensor]:
    """Tensors of an artifact."""
    tensors = {f"scaling.{name}": tensor for name, tensor in vars(scaling).items()}
    return tensors | {f"weights.{i}": tensor for i, tensor in enumerate(weights)}


def from_named(tensors: Mapping[str, Tensor], device: torch.device | None = None) -> tuple[Scaling, list[Tensor]]:
    """The reverse of `named`, on a device."""
    count = sum(name.startswith("weights.") for name in tensors)
    scaling = Scaling(*(tensors[f"scaling.{name}"].to(device) for name in Scaling.__dataclass_fields__))
    return scaling, [tensors[f"weights.{i}"].to(device) for i in range(count)]
