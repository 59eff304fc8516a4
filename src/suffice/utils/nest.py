"""Functions on nests of tensors (dicts, lists, tuples); the only module that imports torch's private pytree."""

from collections.abc import Iterator
from dataclasses import astuple
from typing import Any, cast

from torch.utils._pytree import (
    keystr,
    tree_flatten,
    tree_flatten_with_path,
    tree_leaves,
    tree_map,
    tree_map_only,
    tree_unflatten,
)

__all__ = [
    "dotted_leaves",
    "named_leaves",
    "tree_flatten",
    "tree_leaves",
    "tree_map",
    "tree_map_only",
    "tree_unflatten",
]


def named_leaves(nest: Any) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a nest with their places as Python writes them, such as "['ids'][0]"; "" for a leaf alone."""
    for path, leaf in tree_flatten_with_path(nest)[0]:
        yield keystr(path), leaf


def dotted_leaves(nest: Any) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of a nest with their keys joined by dots, such as "ids.0"; "" for a leaf alone."""
    for path, leaf in tree_flatten_with_path(nest)[0]:
        yield ".".join(str(astuple(cast(Any, entry))[0]) for entry in path), leaf
