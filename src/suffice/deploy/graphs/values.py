"""Inputs and outputs of a graph: names, types and shapes.

The dynamic axes of a tensor are those that differ between two batches, which have different numbers of examples and,
for texts, of tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from suffice.network import State
from suffice.utils.nest import dotted_leaves, tree_flatten

EXAMPLES, TOKENS = "N", "T"
"""Names of the axes of examples and of tokens."""

NEXT = "next."
"""Prefix of the outputs that the next graph takes: an ONNX graph has no input and output of one name."""


@dataclass(frozen=True)
class Value:
    """Input or output of a graph.

    Attributes:
        name: Name in the graph.
        dtype: Type by its name in NumPy.
        shape: Size of each dimension; a name where it is dynamic.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @classmethod
    def between(cls, name: str, first: Tensor, second: Tensor, sizes: Mapping[str, tuple[int, int]]) -> "Value":
        """Return the value with two tensors as examples.

        Args:
            name: Name in the graph.
            first: Tensor in the first batch.
            second: Tensor in the second batch.
            sizes: Sizes of the named axes in both batches.

        Raises:
            ValueError: If the tensor has not one row for each example, or another number of dimensions or type.
        """
        if first.ndim != second.ndim or first.dtype != second.dtype:
            raise ValueError(
                f"expected {name!r} of one type and number of dimensions, got {_shown(first)} and {_shown(second)}"
            )
        if not first.ndim or (len(first), len(second)) != sizes[EXAMPLES]:
            raise ValueError(
                f"expected {name!r} with one row for each of {sizes[EXAMPLES][0]} examples, got {_shown(first)}; "
                "return a plain number in its place, or compute it in the module that reads it"
            )
        dtype = str(first.dtype).removeprefix("torch.")
        if not _is_of_numpy(dtype):
            raise ValueError(
                f"expected {name!r} in a type that NumPy has, got {first.dtype}; return it as float32, .float()"
            )
        axes = [_axis(name, i, pair, sizes) for i, pair in enumerate(zip(first.shape, second.shape, strict=True))]
        return cls(name, dtype, (EXAMPLES, *axes[1:]))

    def entry(self) -> dict[str, Any]:
        """Return the entry of a manifest."""
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}


def _is_of_numpy(dtype: str) -> bool:
    """Return whether a type is NumPy's own; other packages may have registered further ones."""
    try:
        return np.dtype(dtype).isbuiltin == 1
    except TypeError:
        return False


def _axis(name: str, axis: int, pair: tuple[int, int], sizes: Mapping[str, tuple[int, int]]) -> int | str:
    if pair[0] == pair[1]:
        return pair[0]
    return TOKENS if pair == sizes.get(TOKENS) else f"{name}.{axis}"


def _shown(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"


def tensors_of(nest: State) -> list[Tensor]:
    """Return the tensors of a nest in order."""
    return [leaf for leaf in tree_flatten(nest)[0] if isinstance(leaf, Tensor)]


def input_names(x: State) -> list[str]:
    """Return the names of the tensors in inputs: their keys joined by dots; "input" for a single tensor.

    Raises:
        ValueError: If two have the same name, or one has that of an output.
    """
    names = [name or "input" for name, leaf in dotted_leaves(x) if isinstance(leaf, Tensor)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"expected inputs with different names, got {twice[0]!r} twice; rename its key")
    taken = [name for name in names if name in _OUTPUTS or name.startswith((NEXT, "state.", "running.", "streak."))]
    if taken:
        raise ValueError(f"expected inputs with other names than outputs, got {taken[0]!r}; rename the key")
    return names


_OUTPUTS = frozenset(
    (
        *("log_probs", "aleatoric", "label_aleatoric", "mean", "epistemic_variance", "noise_variance"),
        "score",
    )
)
