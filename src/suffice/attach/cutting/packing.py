"""Values between two stages: tensors that later stages read, and the outlines of all others."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NoReturn

import torch
from torch import Tensor

from suffice.attach.cutting.blank import Blank
from suffice.attach.cutting.plan import Layout, Outline, Plan, is_input, leaf_key
from suffice.utils.nest import tree_flatten, tree_unflatten


@dataclass(frozen=True)
class Outlines:
    """Recorded outputs: their keys, their structures, and the outlines of their tensors and their plain values.

    Equal for batches whose rows may be joined.
    """

    entries: tuple[tuple[str, Any, tuple[Any, ...]], ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of all tensors, those of one after those of another."""
        leaves = (leaf for _, _, leaves in self.entries for leaf in leaves)
        return tuple(size for leaf in leaves if isinstance(leaf, Outline) for size in leaf.sizes)

    def resized(self, sizes: Iterable[int]) -> "Outlines":
        """Return the outlines with other sizes, in the order of `sizes`."""
        remaining = iter(sizes)

        def resize(leaf: Any) -> Any:
            if not isinstance(leaf, Outline):
                return leaf
            return replace(leaf, sizes=tuple(islice(remaining, len(leaf.sizes))))

        return Outlines(tuple((key, structure, tuple(map(resize, leaves))) for key, structure, leaves in self.entries))


def pack(values: Mapping[str, Any], plan: Plan, k: int, examples: int) -> tuple[dict[str, Tensor], Outlines]:
    """Split values into tensors (N, …) to keep, by key, and the outlines of all others.

    Args:
        values: Inputs and outputs by key.
        plan: Keys to keep behind cut k.
        k: Number of the cut.
        examples: Number of examples N.
    """
    kept, outlines = dict[str, Tensor](), list[tuple[str, Any, tuple[Any, ...]]]()
    for key, nest in values.items():
        leaves, structure = tree_flatten(nest)
        entries = []
        for i, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                name = leaf_key(key, i)
                layout = plan.layouts.get(name, Layout(0) if leaf.ndim and leaf.shape[0] == examples else Layout(-1))
                if name in plan.kept[k] or (is_input(key) and _is_small(leaf, name, plan)):
                    if isinstance(leaf, Blank):
                        raise_missing(leaf.origins)
                    kept[name] = layout.examples_first(leaf, examples)
                leaf = Outline(leaf.dtype, layout.sizes(leaf, examples), layout)
            entries.append(leaf)
        outlines.append((key, structure, tuple(entries)))
    return kept, Outlines(tuple(outlines))


def unpack(
    kept: Mapping[str, Tensor], outlines: Outlines, layouts: Mapping[str, Layout], examples: int, device: torch.device
) -> dict[str, Any]:
    """Return the values from which `pack` made its result, with blanks in place of those that were not kept."""
    values = {}
    for key, structure, entries in outlines.entries:
        leaves = []
        for i, entry in enumerate(entries):
            name = leaf_key(key, i)
            if name in kept:
                entry = entry.layout.restored(kept[name])
            elif isinstance(entry, Outline):
                entry = entry.blank(examples, device, name)
            leaves.append(entry)
        values[key] = tree_unflatten(leaves, structure)
    return values


def _is_small(leaf: Tensor, name: str, plan: Plan) -> bool:
    """Return whether an input is kept though the example's pass did not need it: ids, masks, and inputs it lacked."""
    return not leaf.is_floating_point() or name not in plan.layouts


def raise_missing(origins: frozenset[str]) -> NoReturn:
    """Raise a RuntimeError for values that an input needs and the example did not."""
    raise RuntimeError(
        f"expected a pass that reads the outputs that the example's read, got one that also reads {sorted(origins)}; "
        "attach the exits with an example that takes this branch"
    )
