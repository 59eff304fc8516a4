"""Head of a model: its last linear layers, whose inputs a pass shows, with the dropout on their inputs.

A `Head` holds what is computed with; `suffice.variation.baselines.head` finds it in a model, and
`suffice.variation.baselines.margins` holds the mathematics.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from suffice import cost
from suffice.inputs import prepare
from suffice.network import State, call
from suffice.storage.parts import Parts, Range
from suffice.storage.serializable import Serializable
from suffice.twin import inference
from suffice.utils.modes import full_precision
from suffice.variation.baselines import margins
from suffice.variation.baselines.exact import computes_as
from suffice.variation.baselines.slopes import ACTIVATIONS
from suffice.variation.teachers.spreads import LikelihoodName

_MOST_RANK, _SHARE = 16, 0.15
"""Largest rank in place of a deeper layer's weight, and share of the model's multiply-adds that it may cost."""
_LEAST = 1e-8
"""Smallest spread of a probability, a logit or a margin as a feature."""
_RATE = Range(least=0, below=1)


@dataclass(frozen=True)
class Head(Serializable):
    """Last linear layers of a model and the dropout on their inputs.

    Attributes:
        layers: Names of the linear layers, the last one first.
        rates: Dropout rate on the inputs of each; 0 for none.
        activations: Activation (`slopes.ACTIVATIONS`) between each layer and the deeper one after it in `layers`.
        points: Points (P, k) in place of standard normals for k margins, float32; (P, 1) but for a classification.
        factors: Matrices in place of the weight of each layer but the last of the model, as in `margins.Layer`.
    """

    layers: tuple[str, ...]
    rates: tuple[float, ...]
    activations: tuple[str, ...]
    points: Tensor
    factors: tuple[tuple[Tensor, Tensor] | None, ...]

    @contextmanager
    def recording(self, model: nn.Module) -> Iterator[list[margins.Layer]]:
        """Record the layers in a pass of the body; the list that is yielded is filled at its end.

        Args:
            model: Twin in evaluation mode.

        Raises:
            RuntimeError: If a layer has not run exactly once.
        """
        seen: dict[str, list[margins.Layer]] = {name: [] for name in self.layers}
        slopes = (None, *(ACTIVATIONS[name].slope for name in self.activations))
        factors = (None, *self.factors)

        def hook(position: int) -> Any:
            def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
                slope, dtype = slopes[position], torch.promote_types(output.dtype, torch.float32)
                inputs = (args[0] if args else kwargs["input"]).detach().to(dtype, copy=True)
                with full_precision():
                    outer = None if slope is None else slope(output.detach().to(dtype))
                weight, pair = _weight(module).detach().to(dtype), factors[position]
                low_rank = None if pair is None else (pair[0].to(dtype), pair[1].to(dtype))
                layer = margins.Layer(weight, inputs, self.rates[position], outer, low_rank)
                seen[self.layers[position]].append(layer)

            return record

        recorded: list[margins.Layer] = []
        with ExitStack() as handles:
            for i, name in enumerate(self.layers):
                handle = model.get_submodule(name).register_forward_hook(hook(i), with_kwargs=True)
                handles.callback(handle.remove)
            yield recorded
        if wrong := [name for name, runs in seen.items() if len(runs) != 1]:
            raise RuntimeError(f"expected each linear layer of the head to run once in a pass, {wrong} did not")
        recorded += [runs[0] for runs in seen.values()]

    def spreads(self, outputs: Tensor, recorded: Sequence[margins.Layer], likelihood: LikelihoodName) -> Tensor:
        """Return `margins.head_spreads`, (N, F), of outputs (N, C) and the layers of the same pass."""
        outputs = outputs.detach().to(recorded[0].inputs.dtype)
        with full_precision():
            return margins.head_spreads(outputs, recorded, self.points.to(outputs), likelihood)

    def features(self, outputs: Tensor, recorded: Sequence[margins.Layer], likelihood: LikelihoodName) -> Tensor:
        """Return the logarithms of `spreads`, (N, F) float32, as features.

        Those of predicted numbers end at a spread that is small for the weights of each, in whatever unit it is.
        """
        spreads = self.spreads(outputs, recorded, likelihood)
        least = torch.full_like(spreads[0], _LEAST)
        if likelihood == "regression":
            norms = recorded[0].weight.norm(dim=1)
            least *= norms if len(norms) == 1 else torch.cat([norms.mean()[None], norms])
        return torch.maximum(spreads, least.clamp_min(torch.finfo(least.dtype).tiny)).log().float()

    def macs(self, model: nn.Module, likelihood: LikelihoodName) -> int:
        """Return the multiply-adds of `spreads` per example, beyond the model's own."""
        ranks = [None if pair is None else pair[0].shape[1] for pair in self.factors]
        return self._macs(_shapes(model, self.layers), ranks, likelihood)

    def _macs(self, shapes: Sequence[tuple[int, int]], ranks: Sequence[int | None], likelihood: LikelihoodName) -> int:
        points, k = self.points.shape
        is_classification = likelihood == "classification"
        count = k if is_classification else shapes[0][0]
        points = 0 if likelihood == "regression" else points
        return margins.macs(shapes, ranks, self.rates, count, points, is_classification)

    def low_rank(self, model: nn.Module, x: State, likelihood: LikelihoodName) -> "Head":
        """Return the head with factors of a lower rank in place of the weights of deeper layers, where they cost less.

        The rank is the largest one up to 16 with which `macs` are at most 15 % of the model's, or else 1.

        Args:
            model: Model; only twins of it run.
            x: Batch of inputs, for the principal directions of each layer.
            likelihood: Meaning of the model's output.
        """
        shapes, limit = _shapes(model, self.layers), _SHARE * cost.macs(model, x)

        def ranks(most: int) -> list[int | None]:
            return [most if most * (rows + columns) < rows * columns else None for rows, columns in shapes[1:]]

        within = (n for n in range(_MOST_RANK, 0, -1) if self._macs(shapes, ranks(n), likelihood) <= limit)
        chosen = ranks(next(within, 1))
        if not any(chosen):
            return self
        with inference(model) as twin, full_precision():
            with self.recording(twin) as recorded:
                call(twin, prepare(x, model))
            factors = [
                None if rank is None else margins.factorize(layer.weight, layer.inputs, rank)
                for layer, rank in zip(recorded[1:], chosen, strict=True)
            ]
        return replace(self, factors=tuple(factors))

    def to(self, device: torch.device) -> "Head":
        """Return the head with its tensors on a device."""
        if device == self.points.device:
            return self
        factors = [None if pair is None else (pair[0].to(device), pair[1].to(device)) for pair in self.factors]
        return replace(self, points=self.points.to(device), factors=tuple(factors))

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the configuration and the tensors of an artifact."""
        configuration = {"layers": self.layers, "rates": self.rates, "activations": self.activations}
        tensors = {"points": self.points}
        for i, pair in enumerate(self.factors):
            if pair is not None:
                tensors |= {f"factors.{i}.left": pair[0], f"factors.{i}.right": pair[1]}
        return configuration, tensors

    @classmethod
    def from_parts(cls, parts: Parts, model: nn.Module, likelihood: LikelihoodName) -> "Head":
        """Read a head from an artifact, for a model that has its layers."""
        names, modules = parts.texts("layers"), dict(model.named_modules())
        layers = [modules.get(name) for name in names]
        if not names or not _is_chain(layers):
            parts.refuse("layers", "names of linear layers of the model, the last one first", names)
        rates = tuple(parts.numbers("rates", len(names), _RATE))
        if not any(rates):
            parts.refuse("rates", "above 0 for a layer or more", rates)
        activations = parts.texts("activations")
        if len(activations) != len(names) - 1 or not ACTIVATIONS.keys() >= set(activations):
            parts.refuse("activations", f"{len(names) - 1} of {tuple(ACTIVATIONS)}", activations)
        k = num_margins(len(_weight(modules[names[0]])), likelihood)
        points = parts.tensor("points", f"* {k}", dtype=torch.float32)
        if len(points) < 2:
            parts.refuse_tensor("points", "of two rows or more", len(points))
        factors = tuple(_factors(parts, i, shape) for i, shape in enumerate(_shapes(model, names)[1:]))
        return cls(names, rates, activations, points, factors)


def num_margins(outputs: int, likelihood: LikelihoodName, most: int = margins.MARGINS) -> int:
    """Return the dimension of the points for a number of outputs."""
    return min(most, outputs - 1) if likelihood == "classification" else 1


def _shapes(model: nn.Module, layers: Sequence[str]) -> list[tuple[int, int]]:
    """Return the shapes (D′, D) of the weights of linear layers."""
    weights = [_weight(model.get_submodule(name)) for name in layers]
    return [(weight.shape[0], weight.shape[1]) for weight in weights]


def _weight(layer: nn.Module) -> Tensor:
    """Return the weight of a linear layer, a parameter or a buffer."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight


def _factors(parts: Parts, i: int, shape: tuple[int, int]) -> tuple[Tensor, Tensor] | None:
    """Read the factors in place of a weight of a shape (D′, D), number i, from an artifact that may have none."""
    left, right = f"factors.{i}.left", f"factors.{i}.right"
    if left not in parts:
        return None
    outer = parts.tensor(left, f"{shape[0]} *", dtype=torch.float32)
    if not outer.shape[1]:
        parts.refuse_tensor(left, "of one column or more", 0)
    return outer, parts.tensor(right, f"{outer.shape[1]} {shape[1]}", dtype=torch.float32)


def _is_chain(layers: Sequence[nn.Module | None]) -> bool:
    """Return whether modules are linear layers, each of which takes what the next one returns."""
    linear = [layer for layer in layers if isinstance(layer, nn.Linear) and computes_as(layer, nn.Linear)]
    return len(linear) == len(layers) and all(a.in_features == b.out_features for a, b in pairwise(linear))
