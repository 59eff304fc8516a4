"""Classification of objects for the copy of a model: immutable, copyable, unique, or a compiled module."""

import copy
import gc
import types
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

ATOMS = frozenset(
    (
        *(type(None), bool, int, float, complex, str, bytes, type, range, types.ModuleType, types.CodeType),
        *(torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format),
    )
)
"""Types whose objects never change and refer to nothing."""

_UNIQUE_PACKAGES = frozenset(
    (
        *("_io", "_queue", "_socket", "_thread", "asyncio", "concurrent", "multiprocessing", "queue", "socket"),
        *("sqlite3", "ssl", "subprocess", "threading"),
    )
)
"""Python modules whose objects (locks, files, threads) cannot be copied; nor can an object that holds one."""

_MAX_SEARCHED = 100_000
"""Largest number of objects that `reaches` visits."""

_COPY_METHODS = ("__reduce_ex__", "__reduce__", "__getstate__", "__new__")
"""Methods that a class without its own way of copying inherits from `object`."""


def shallow_copy(value: Any) -> Any:
    """Return a second object with the same attributes, or None if there can be only one.

    A class with its own way of copying is copied that way. An object with a finalizer (`__del__`) is not copied.
    """
    kind = type(value)
    if hasattr(kind, "__del__") or _is_unique(value):
        return None
    overrides = any(getattr(kind, name) is not getattr(object, name) for name in _COPY_METHODS)
    try:
        if overrides or any(hasattr(kind, name) for name in ("__copy__", "__deepcopy__", "__setstate__")):
            copied = copy.copy(value)
            return copied if type(copied) is kind and copied is not value else None
        value.__reduce_ex__(4)  # raises if the object holds state outside Python
    except Exception:  # the methods of other libraries may raise anything
        return None
    return _with_attributes(object.__new__(kind), value)


def slot_values(value: object) -> dict[str, Any]:
    """Return the values in an object's `__slots__`, by name."""
    names = {
        name
        for base in type(value).__mro__
        if "__slots__" in vars(base)
        for name, descriptor in vars(base).items()
        if isinstance(descriptor, types.MemberDescriptorType)
    }
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def is_compiled(module: nn.Module) -> bool:
    """Return whether a module is compiled or scripted, so that it cannot be copied or hooked inside."""
    if isinstance(module, torch.jit.ScriptModule) or vars(module).get("_compiled_call_impl") is not None:
        return True
    return "_orig_mod" in module._modules and isinstance(module, torch._dynamo.OptimizedModule)


def reaches(start: object, targets: Iterable[object]) -> bool:
    """Return whether an object refers, directly or not, to one of the targets, other than by classes and globals."""
    target_ids = set(map(id, targets))
    visited, pending = {id(start)}, [start]
    while pending and len(visited) < _MAX_SEARCHED:
        value = pending.pop()
        if id(value) in target_ids:
            return True
        for referent in _referents(value):
            if type(referent) not in ATOMS and id(referent) not in visited:
                visited.add(id(referent))
                pending.append(referent)
    return False


def _with_attributes(new: Any, value: Any) -> Any:
    """Give a new object the attributes of another."""
    if hasattr(value, "__dict__"):
        vars(new).update(vars(value))
    for name, item in slot_values(value).items():
        object.__setattr__(new, name, item)
    return new


def _is_unique(value: object) -> bool:
    return any(base.__module__.partition(".")[0] in _UNIQUE_PACKAGES for base in type(value).__mro__)


def _referents(value: Any) -> list[Any]:
    if isinstance(value, (type, types.ModuleType, types.CodeType, types.FrameType, Tensor)):
        return []
    if isinstance(value, types.FunctionType):
        return [value.__closure__, value.__defaults__, value.__kwdefaults__, vars(value)]
    return gc.get_referents(value)
