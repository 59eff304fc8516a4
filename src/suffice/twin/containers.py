"""Copies of lists, dicts, sets, tuples and other containers that refer to copies of their items.

A container that may contain itself is remembered before its items are copied, so that cycles end.
"""

import copy
from collections import OrderedDict, defaultdict, deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from suffice.twin.copier import Copier

CONTAINERS = (list, deque, set, dict, OrderedDict, defaultdict)
"""Container types with a rule of their own; `copy_subclass` copies their subclasses."""


def copy_sequence(copier: "Copier", values: Any) -> Any:
    """Return a copy of a list or deque."""
    copied: Any = deque[Any](maxlen=values.maxlen) if isinstance(values, deque) else list[Any]()
    copier.record_container(values, copied)
    copier.remember(values, copied).extend(map(copier.copy, list(values)))
    return copied


def copy_set(copier: "Copier", values: set[Any]) -> set[Any]:
    """Return a copy of a set."""
    copied = set[Any]()
    copier.record_container(values, copied)
    copier.remember(values, copied)
    copied.update(map(copier.copy, list(values)))
    return copied


def copy_dict(copier: "Copier", values: dict[Any, Any]) -> dict[Any, Any]:
    """Return a copy of a dict, OrderedDict or defaultdict."""
    copied = type(values)()
    copier.record_container(values, copied)
    copier.remember(values, copied)
    if isinstance(values, defaultdict) and isinstance(copied, defaultdict):
        copied.default_factory = copier.copy(values.default_factory)
    for key, value in list(values.items()):
        copied[copier.copy(key)] = copier.copy(value)
    return copied


def copy_subclass(copier: "Copier", values: Any) -> Any:
    """Return a copy of a container of another class, made by that class's own way of copying."""
    copier.trackable = False
    copied = copier.remember(values, copy.copy(values))
    if isinstance(copied, dict):
        for key in list(copied):
            dict.__setitem__(copied, key, copier.copy(copied[key]))
    elif isinstance(copied, (list, deque)):
        for i, value in enumerate(list(copied)):
            copied[i] = copier.copy(value)
    return copied


def copy_tuple(copier: "Copier", values: Any) -> Any:
    """Return a tuple, named tuple or frozenset of copies; the original if none of its items is copied."""
    items = [copier.copy(value) for value in values]
    if all(a is b for a, b in zip(values, items, strict=True)):
        return values
    return type(values)._make(items) if hasattr(values, "_make") else type(values)(items)
