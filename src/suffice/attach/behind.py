"""Operations of a model on the output of its classifier before it returns it.

Predictions are made from the features and the classifier. They equal the model's own only if nothing but a selection
lies behind the classifier: the logits as they are, or those of some positions, as of the last token of a text.
A mask, a clamp or a scaling there changes the logits of some inputs and may leave those of an example unchanged, so
the operations are watched, and not their results alone.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from suffice.utils.nest import tree_leaves, tree_map_only

_ALIASES = frozenset(
    f"aten::{name}"
    for name in (
        *("alias", "detach", "clone", "contiguous", "lift_fresh", "view", "_unsafe_view", "reshape", "squeeze"),
        *("unsqueeze", "_to_copy", "to", "expand", "_reshape_alias"),
    )
)
"""Operations that keep all values, up to their shape and type."""

_SELECTIONS = frozenset(
    f"aten::{name}"
    for name in (
        *("select", "slice", "index", "index_select", "gather", "take_along_dim", "narrow", "unbind", "split"),
        *("split_with_sizes", "transpose", "permute", "t", "as_strided"),
    )
)
"""Operations that return some of the values, possibly in another order."""


class Watched(Tensor):
    """Tensor that records the operations on its values.

    Attributes:
        value: The tensor itself.
        operations: Names of the operations between the classifier's output and this tensor, in order.
    """

    value: Tensor
    operations: tuple[str, ...]
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def of(value: Tensor, operations: tuple[str, ...] = ()) -> "Watched":
        """Return a watched tensor with the values of another."""
        watched: Watched = Tensor._make_wrapper_subclass(
            Watched, value.size(), strides=value.stride(), dtype=value.dtype, device=value.device
        )
        watched.value, watched.operations = value, operations
        return watched

    def __repr__(self) -> str:  # type: ignore[override]
        """Return the shape and the operations."""
        return f"Watched({tuple(self.shape)}, {self.operations})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation on the values, and record it."""
        del types
        kwargs = kwargs or {}
        watched = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Watched)]
        operations = (*max((each.operations for each in watched), key=len), str(func._schema.name))
        result = func(
            *tree_map_only(Watched, lambda leaf: leaf.value, args),
            **tree_map_only(Watched, lambda leaf: leaf.value, kwargs),
        )
        written = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Watched) and leaf.value is result]
        if written:
            written[0].operations = operations
            return written[0]
        return tree_map_only(Tensor, lambda tensor: Watched.of(tensor, operations), result)


@dataclass(frozen=True)
class Behind:
    """Operations behind the classifier.

    Attributes:
        selects: Whether the model returns a selection of the classifier's outputs, not all of them.
        changes: Name of the first operation that changes values, or None.
    """

    selects: bool
    changes: str | None

    @classmethod
    def of(cls, logits: Tensor) -> "Behind":
        """Return the operations between the classifier and the logits of a model."""
        if not isinstance(logits, Watched):
            return cls(False, "an operation that returns new values")
        names = [name for name in logits.operations if name not in _ALIASES]
        changes = next((name for name in names if name not in _SELECTIONS), None)
        return cls(bool(names), changes)
