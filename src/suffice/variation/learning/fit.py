"""What is learned about a spread: how features become inputs, and a small network from those to the spread."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from suffice.storage.parts import INVERTIBLE, Parts, Range, prefixed
from suffice.storage.stored import Stored
from suffice.utils.modes import full_precision
from suffice.variation.features.scaling import Scaled, Scaling
from suffice.variation.learning import mlp
from suffice.variation.teachers import spreads


@dataclass(frozen=True)
class Fit(Stored):
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
            value = mlp.variance(mlp.forward(self.weights, scaled.inputs)).mul_(self.unit)
        return value.pow_(1 / spreads.power(self.target)).clamp_(*self.bounds), scaled

    @property
    def macs(self) -> int:
        """Multiply-adds per example."""
        return mlp.macs(self.weights)

    def to(self, device: torch.device) -> "Fit":
        """The same on a device."""
        if device == self.scaling.columns.device:
            return self
        weights = tuple(weight.to(device) for weight in self.weights)
        return replace(self, scaling=self.scaling.to(device), weights=weights)

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Configuration and tensors of an artifact."""
        configuration = {name: getattr(self, name) for name in _NUMBERS}
        return configuration, named(self.scaling, self.weights)

    @classmethod
    def from_parts(cls, parts: Parts) -> "Fit":
        """The reverse of `parts`."""
        target = parts.text("target")
        if not spreads.learnable(target):
            parts.refuse("target", "a spread that can be learned", target)
        low, high = parts.numbers("bounds", 2, Range(0, INVERTIBLE.most))
        if low > high:
            parts.refuse("bounds", "the least and the greatest answer", [low, high])
        unit, limit = (parts.number(name, INVERTIBLE) for name in ("unit", "limit"))
        return cls(target, *from_named(parts, 1), unit, (low, high), limit, parts.count("passes", 1))


_NUMBERS = ("target", "unit", "bounds", "limit", "passes")


def named(scaling: Scaling, weights: Sequence[Tensor]) -> dict[str, Tensor]:
    """Tensors of an artifact."""
    return prefixed("scaling.", scaling.tensors()) | {f"weights.{i}": tensor for i, tensor in enumerate(weights)}


def from_named(parts: Parts, outputs: int) -> tuple[Scaling, tuple[Tensor, ...]]:
    """The reverse of `named`, for a network of so many outputs."""
    scaling = Scaling.from_parts(parts.under("scaling."))
    weights, width = list[Tensor](), len(scaling.columns)
    while not weights or f"weights.{len(weights)}" in parts:
        matrix = parts.tensor(f"weights.{len(weights)}", f"* {width}", dtype=torch.float32)
        width = len(matrix)
        weights += [matrix, parts.tensor(f"weights.{len(weights) + 1}", f"{width}", dtype=torch.float32)]
    if width != outputs:
        parts.refuse_tensor(f"weights.{len(weights) - 2}", f"of {outputs} rows, one for each output", width)
    return scaling, tuple(weights)
