"""Fitted map from features to a spread: the scaling of the features and a small network."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from suffice.storage.parts import INVERTIBLE, Parts, Range, prefixed
from suffice.storage.serializable import Serializable
from suffice.utils.modes import full_precision
from suffice.variation.features.distance import Distance
from suffice.variation.features.scaling import Scaled, Scaling
from suffice.variation.learning import mlp
from suffice.variation.learning.target import Target


@dataclass(frozen=True)
class FittedMLP(Serializable):
    """Small network that estimates a spread from features.

    Attributes:
        target: Spread that it estimates.
        scaling: Map from features to inputs of the network.
        weights: Weights of the network: matrix, bias, matrix, bias, ….
        unit: Mean of the training labels, which are spreads to the power of the target.
        bounds: Least and greatest estimate.
        distance: Distance of the features from those of fitting, which flags an input as outside.
        passes: Number T of passes of the labels.
    """

    target: Target
    scaling: Scaling = field(repr=False)
    weights: tuple[Tensor, ...] = field(repr=False)
    unit: float
    bounds: tuple[float, float]
    distance: Distance = field(repr=False)
    passes: int

    def __call__(self, features: Tensor) -> Tensor:
        """Estimate the spreads (N,) float32 of features (N, F)."""
        return self.estimate(features)[0]

    def estimate(self, features: Tensor) -> tuple[Tensor, Scaled]:
        """Estimate the spreads of features (N, F).

        Returns:
            Spreads (N,) float32, and the scaled features that they were computed from.
        """
        scaled = self.scaling.apply(features)
        with full_precision():
            variance = mlp.variance(mlp.forward(self.weights, scaled.inputs)).mul_(self.unit)
        return variance.pow_(1 / self.target.power).clamp_(*self.bounds), scaled

    @property
    def macs(self) -> int:
        """Multiply-adds per example."""
        return mlp.macs(self.weights) + self.distance.macs

    def to(self, device: torch.device) -> "FittedMLP":
        """Return the map with its tensors on a device."""
        if device == self.scaling.columns.device:
            return self
        weights = tuple(weight.to(device) for weight in self.weights)
        return replace(self, scaling=self.scaling.to(device), weights=weights, distance=self.distance.to(device))

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the configuration and the tensors of an artifact."""
        distance, tensors = self.distance.parts()
        configuration = {
            "target": self.target.name,
            "unit": self.unit,
            "bounds": self.bounds,
            **distance,
            "passes": self.passes,
        }
        return configuration, network_tensors(self.scaling, self.weights) | prefixed("distance.", tensors)

    @classmethod
    def from_parts(cls, parts: Parts) -> "FittedMLP":
        """Read the map from the fields and tensors of an artifact."""
        name = parts.text("target")
        try:
            target = Target(name)
        except ValueError:
            parts.refuse("target", "a spread that can be learned", name)
        low, high = parts.numbers("bounds", 2, Range(0, INVERTIBLE.most))
        if low > high:
            parts.refuse("bounds", "the least and the greatest estimate", [low, high])
        scaling, weights = read_network(parts, 1)
        distance = Distance.from_parts(parts, len(scaling.columns))
        unit, passes = parts.number("unit", INVERTIBLE), parts.count("passes", 1)
        return cls(target, scaling, weights, unit, (low, high), distance, passes)


def network_tensors(scaling: Scaling, weights: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a scaling and a small network by their names in an artifact."""
    return prefixed("scaling.", scaling.tensors()) | {f"weights.{i}": tensor for i, tensor in enumerate(weights)}


def read_network(parts: Parts, outputs: int) -> tuple[Scaling, tuple[Tensor, ...]]:
    """Read `network_tensors` back, for a network with `outputs` outputs."""
    scaling = Scaling.from_parts(parts.under("scaling."))
    weights, width = list[Tensor](), len(scaling.columns)
    while not weights or f"weights.{len(weights)}" in parts:
        matrix = parts.tensor(f"weights.{len(weights)}", f"* {width}", dtype=torch.float32)
        width = len(matrix)
        weights += [matrix, parts.tensor(f"weights.{len(weights) + 1}", f"{width}", dtype=torch.float32)]
    if width != outputs:
        parts.refuse_tensor(f"weights.{len(weights) - 2}", f"of {outputs} rows, one for each output", width)
    return scaling, tuple(weights)
