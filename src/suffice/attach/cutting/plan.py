"""Plan of a pass in stages: where it is cut, what is kept behind each cut, and where the examples lie in tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from suffice.attach.cutting.blank import Blank
from suffice.network import State
from suffice.utils.nest import tree_flatten

INPUTS = "inputs"
"""Key of the inputs of the model among the values of a state; those of a mapping have keys that begin with it."""


@dataclass(frozen=True)
class Layout:
    """Position of the examples in a tensor: dimension `dim` has `factor` entries for each example.

    A tensor that is the same for all examples has the dimension −1.
    """

    dim: int
    factor: int = 1

    def sizes(self, tensor: Tensor, examples: int) -> tuple[int, ...]:
        """Return the shape of a tensor, with the entries for one example in the dimension of the examples."""
        shape = list(tensor.shape)
        if self.dim >= 0:
            if self.dim >= len(shape) or shape[self.dim] != self.factor * examples:
                raise RuntimeError(
                    f"expected {self.factor * examples} entries in dimension {self.dim} for {examples} examples, got "
                    f"shape {tuple(shape)}; the model's modules return other shapes than for the example of "
                    "suffice.attach_exits"
                )
            shape[self.dim] = self.factor
        return tuple(shape)

    def examples_first(self, tensor: Tensor, examples: int) -> Tensor:
        """Return a tensor (N, …) with one entry per example."""
        if self.dim < 0:
            return tensor.unsqueeze(0).expand(examples, *tensor.shape)
        split: Tensor = tensor.movedim(self.dim, 0).unflatten(0, (examples, self.factor))
        return split

    def restored(self, tensor: Tensor) -> Tensor:
        """Return the tensor from which `examples_first` made this one."""
        return tensor[0] if self.dim < 0 else tensor.flatten(0, 1).movedim(0, self.dim)


@dataclass(frozen=True)
class Outline:
    """Tensor of a module's output whose values are not kept: its type, its shape for one example, its layout."""

    dtype: torch.dtype
    sizes: tuple[int, ...]
    layout: Layout

    def blank(self, examples: int, device: torch.device, origin: str) -> Blank:
        """Return a blank for a number of examples."""
        shape = list(self.sizes)
        if self.layout.dim >= 0:
            shape[self.layout.dim] *= examples
        return Blank.of(shape, self.dtype, device, origin)


@dataclass(frozen=True)
class Plan:
    """Places at which a model's pass is cut, and what is kept of it from stage to stage.

    Attributes:
        watched: Names of the modules whose outputs are recorded.
        cuts: Names of the K − 1 modules behind which the stages but the last end, in order.
        classifier: Name of the model's classifier.
        selects: Whether the model selects positions from the classifier's output (`suffice.attach.behind`).
        kept: For each cut, the keys of the values that later stages read.
        layouts: Layouts of the tensors by key.
        written: Keys of the tensors that the model writes into after a module has returned them.
    """

    watched: tuple[str, ...]
    cuts: tuple[str, ...]
    classifier: str
    selects: bool
    kept: tuple[frozenset[str], ...]
    layouts: Mapping[str, Layout]
    written: frozenset[str] = frozenset()


def input_values(inputs: State) -> dict[str, Any]:
    """Return the inputs of a model by key."""
    if isinstance(inputs, Mapping):
        return {f"{INPUTS}.{key}": value for key, value in inputs.items()}
    return {INPUTS: inputs}


def inputs_of(values: Mapping[str, Any]) -> State:
    """Return the inputs of a model from values by key."""
    if INPUTS in values:
        return values[INPUTS]
    begin = f"{INPUTS}."
    return {key.removeprefix(begin): value for key, value in values.items() if key.startswith(begin)}


def is_input(key: str) -> bool:
    """Return whether a key is that of an input."""
    return key == INPUTS or key.startswith(f"{INPUTS}.")


def key_of(name: str, count: int) -> str:
    """Return the key of a module's output: the module's name and the number of its earlier calls in the pass."""
    return f"{name}#{count}"


def leaf_key(key: str, i: int) -> str:
    """Return the key of one leaf of a nest of tensors."""
    return f"{key}[{i}]"


def first_tensor(output: Any) -> Tensor:
    """Return the first floating tensor of a module's output."""
    return next(leaf for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor) and leaf.is_floating_point())
