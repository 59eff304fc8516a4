"""Nests without their tensors, which a graph takes and returns one by one.

What is not a tensor is part of the graph, and has to be the same for all inputs. The sizes in a record of outputs that
were left out (`suffice.attach.cutting.packing`) may depend on the number of tokens: they are read from a tensor with
such an axis.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from suffice.attach.cutting.packing import Outlines
from suffice.network import State
from suffice.utils.nest import tree_flatten, tree_unflatten

_TENSOR = object()
"""Leaf in place of a tensor."""

Shapes = Sequence[tuple[int, ...]]
"""Shapes of the tensors of a nest in order."""


@dataclass(frozen=True)
class ResizedOutlines:
    """Outlines with sizes that are read from tensors.

    Attributes:
        outlines: Outlines in one pass.
        sources: For each of their sizes the tensor, by its place in the nest, and the axis that have it; None if it is
            the same for all inputs.
    """

    outlines: Outlines
    sources: tuple[tuple[int, int] | None, ...]

    @classmethod
    def of(cls, first: Outlines, second: Outlines, shapes: tuple[Shapes, Shapes]) -> "ResizedOutlines":
        """Return outlines for any inputs, from those of two passes and the shapes of the tensors in both.

        Raises:
            ValueError: If they differ in more than sizes, or a size is that of no axis.
        """
        pairs = [*zip(first.sizes, second.sizes, strict=False)]
        if not _equal(first.resized(first.sizes), second.resized(first.sizes)):
            raise ValueError("got records of outputs that differ in more than their sizes")
        axes = {
            pair: (place, axis)
            for place, (ours, theirs) in enumerate(zip(*shapes, strict=True))
            for axis, pair in enumerate(zip(ours, theirs, strict=True))
            if axis
        }
        missing = next((pair for pair in pairs if pair[0] != pair[1] and pair not in axes), None)
        if missing is not None:
            raise ValueError(f"got an output with a size of {missing[0]} and {missing[1]}, which no tensor in it has")
        return cls(first, tuple(None if pair[0] == pair[1] else axes[pair] for pair in pairs))

    def fill(self, tensors: Sequence[Tensor]) -> Outlines:
        """Return the outlines beside some tensors."""
        pairs = zip(self.outlines.sizes, self.sources, strict=True)
        return self.outlines.resized(
            size if source is None else tensors[source[0]].shape[source[1]] for size, source in pairs
        )


@dataclass(frozen=True)
class Template:
    """Nest without its tensors.

    Attributes:
        structure: Structure of the nest.
        leaves: Plain values, and `_TENSOR` in place of each tensor.
        shapes: Shapes of the tensors.
    """

    structure: Any
    leaves: tuple[Any, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, nest: State) -> "Template":
        """Return the template of a nest."""
        leaves, structure = tree_flatten(nest)
        shapes = tuple(tuple(leaf.shape) for leaf in leaves if isinstance(leaf, Tensor))
        return cls(structure, tuple(_TENSOR if isinstance(leaf, Tensor) else leaf for leaf in leaves), shapes)

    @property
    def count(self) -> int:
        """Number of tensors."""
        return len(self.shapes)

    def fill(self, tensors: Sequence[Tensor]) -> State:
        """Return the nest with tensors, of which there are `count`."""
        remaining = iter(tensors)

        def filled(leaf: Any) -> Any:
            if isinstance(leaf, ResizedOutlines):
                return leaf.fill(tensors)
            return next(remaining) if leaf is _TENSOR else leaf

        return tree_unflatten([*map(filled, self.leaves)], self.structure)

    def is_like(self, nest: State) -> bool:
        """Return whether a nest has the same structure and the same plain values."""
        leaves, structure = tree_flatten(nest)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if self.structure != structure or self.count != len(tensors):
            return False
        mine = tree_flatten(self.fill(tensors))[0]
        return all(a is b or _equal(a, b) for a, b in zip(mine, leaves, strict=True))

    def joined(self, other: "Template", what: str) -> "Template":
        """Return the template for all inputs, from this one and that of another pass.

        Raises:
            ValueError: If the other nest has not the same structure and the same plain values.
        """
        if self.structure != other.structure or len(self.leaves) != len(other.leaves):
            raise ValueError(
                f"expected {what} of one structure, got another for another number of examples or tokens; return the "
                "same keys and the same numbers of items for all inputs"
            )
        leaves = [self._joined(*pair, other, what) for pair in zip(self.leaves, other.leaves, strict=True)]
        return Template(self.structure, tuple(leaves), self.shapes)

    def _joined(self, mine: Any, theirs: Any, other: "Template", what: str) -> Any:
        """Return a leaf for all inputs."""
        if mine is theirs or _equal(mine, theirs):
            return mine
        if isinstance(mine, Outlines) and isinstance(theirs, Outlines):
            try:
                return ResizedOutlines.of(mine, theirs, (self.shapes, other.shapes))
            except ValueError as error:
                raise ValueError(
                    f"expected {what} to be computed alike for texts of any length, {error}; write the model as stages "
                    "(suffice.ExitNetwork), with what later layers need in their state"
                ) from error
        raise ValueError(
            f"expected plain values in {what} that do not depend on the inputs, got {mine!r:.60} and "
            f"{theirs!r:.60} for other numbers of examples or tokens; compute it from the shape of a tensor of "
            "the state where it is used, or cut the model elsewhere"
        )


def _equal(a: Any, b: Any) -> bool:
    try:
        return type(a) is type(b) and bool(a == b)
    except Exception:  # objects of the user may raise anything
        return False
