"""Operations of a model on the output of its classifier before it returns it.

Predictions are made from the features and the classifier. They equal the model's own only if nothing but a selection
lies behind the classifier: the logits as they are, or those of some positions, as of the last token of a text.
A mask, a clamp or a scaling there changes the logits of some inputs and may leave those of an example unchanged, so
the operations are watched, and not their results alone. Views share the memory of the classifier's output, so a write
through any of them counts for all. A branch that no example takes shows only in later passes (`suffice.attach.whole`).
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
        written: Names of the operations that wrote into its memory, a list for all tensors in this memory.
    """

    value: Tensor
    operations: tuple[str, ...]
    written: list[str]
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def of(value: Tensor, operations: tuple[str, ...] = (), written: list[str] | None = None) -> "Watched":
        """Return a watched tensor with the values of another."""
        watched: Watched = Tensor._make_wrapper_subclass(
            Watched, value.size(), strides=value.stride(), dtype=value.dtype, device=value.device
        )
        watched.value, watched.operations = value, operations
        watched.written = [] if written is None else written
        return watched

    def __repr__(self) -> str:  # type: ignore[override]
        """Return the shape and the operations."""
        return f"Watched({tuple(self.shape)}, {self.history})"

    @property
    def history(self) -> tuple[str, ...]:
        """All operations that may have changed the values, each once."""
        return tuple(dict.fromkeys((*self.operations, *self.written)))

    @property
    def data(self) -> Tensor:
        """Return the same values without a history of gradients; assigned values replace them."""
        return self.detach()

    @data.setter
    def data(self, values: Tensor) -> None:
        self.written.append("an assignment to .data")

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation on the values, and record it."""
        del types
        kwargs, name = kwargs or {}, str(func._schema.name)
        watched = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Watched)]
        result = func(
            *tree_map_only(Watched, lambda leaf: leaf.value, args),
            **tree_map_only(Watched, lambda leaf: leaf.value, kwargs),
        )
        for leaf in _written(func, args, kwargs):
            leaf.written.append(name)
        operations = (*dict.fromkeys(operation for leaf in watched for operation in leaf.history), name)

        def wrap(tensor: Tensor) -> Watched:
            for leaf in watched:
                if leaf.value is tensor:
                    return leaf
            shared = (leaf.written for leaf in watched if _memory(leaf.value) == _memory(tensor))
            return Watched.of(tensor, operations, next(shared, None))

        return tree_map_only(Tensor, wrap, result)


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Watched]:
    """Return the watched tensors that an operation writes into, those in lists included."""
    schema = func._schema.arguments
    given = [*zip(schema, args, strict=False), *((each, kwargs[each.name]) for each in schema if each.name in kwargs)]
    into = [value for argument, value in given if argument.alias_info is not None and argument.alias_info.is_write]
    return [leaf for leaf in tree_leaves(into) if isinstance(leaf, Watched)]


def _memory(tensor: Tensor) -> int:
    memory: int = tensor.untyped_storage()._cdata
    return memory


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
        names = [name for name in logits.history if name not in _ALIASES]
        changes = next((name for name in names if name not in _SELECTIONS), None)
        return cls(bool(names), changes)
