"""Nests of tensors (dicts, lists, tuples): the one place that imports torch's pytree, whose module is private."""

from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_map_only

__all__ = ["tree_flatten", "tree_leaves", "tree_map", "tree_map_only"]
