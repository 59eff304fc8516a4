"""What an object is to a copy of a model: an atom, one that can be there twice or not, or a compiled whole."""

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

_WORLD = frozenset(
    (
        *("_io", "_queue", "_socket", "_thread", "asyncio", "concurrent", "multiprocessing", "queue", "socket"),
        *("sqlite3", "ssl", "subprocess", "threading"),
    )
)
"""Modules of Python whose objects stand for something that cannot be there twice; nor can what holds one."""

_SEARCHED = 100_000
"""Objects, at most, that are searched for modules."""


_OBJECTS = ("__reduce_ex__", "__reduce__", "__getstate__", "__new__")
"""What is as `object` has it in classes with no way of their own to copy."""


def twice(value: Any) -> Any:
    """A second object that holds the same, or None where there can be only one.

    Objects with a way of their own to be copied take that; what has one to end (`__del__`) is there once.
    """
    kind = type(value)
    if hasattr(kind, "__del__") or _is_of_world(value):
        return None
    own = any(getattr(kind, way) is not getattr(object, way) for way in _OBJECTS)
    try:
        if own or any(hasattr(kind, way) for way in ("__copy__", "__deepcopy__", "__setstate__")):
            new = copy.copy(value)
            return new if type(new) is kind and new is not value else None
        value.__reduce_ex__(4)  # refuses what holds more than Python knows of
    except Exception:  # of any kind, as it is other people's code
        return None
    return _with_the_same(object.__new__(kind), value)


def slots(value: object) -> dict[str, Any]:
    """What an object holds in slots."""
    names = {
        name
        for base in type(value).__mro__
        if "__slots__" in vars(base)
        for name, descriptor in vars(base).items()
        if isinstance(descriptor, types.MemberDescriptorType)
    }
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def _with_the_same(new: Any, value: Any) -> Any:
    if hasattr(value, "__dict__"):
        vars(new).update(vars(value))
    for name, held in slots(value).items():
        object.__setattr__(new, name, held)
    return new


def is_compiled(module: nn.Module) -> bool:
    """Whether a module runs as a compiled or scripted whole, which no copy and no hook can take apart."""
    if isinstance(module, torch.jit.ScriptModule) or vars(module).get("_compiled_call_impl") is not None:
        return True
    return "_orig_mod" in module._modules and isinstance(module, torch._dynamo.OptimizedModule)


def reaches(start: object, targets: Iterable[object]) -> bool:
    """Whether one of some modules can be reached through an object; classes and global names are not followed."""
    wanted = set(map(id, targets))
    seen, waiting = {id(start)}, [start]
    while waiting and len(seen) < _SEARCHED:
        value = waiting.pop()
        if id(value) in wanted:
            return True
        for held in _referents(value):
            if type(held) not in ATOMS and id(held) not in seen:
                seen.add(id(held))
                waiting.append(held)
    return False


def _is_of_world(value: object) -> bool:
    return any(base.__module__.partition(".")[0] in _WORLD for base in type(value).__mro__)


def _referents(value: Any) -> list[Any]:
    if isinstance(value, (type, types.ModuleType, types.CodeType, types.FrameType, Tensor)):
        return []
    if isinstance(value, types.FunctionType):
        return [value.__closure__, value.__defaults__, value.__kwdefaults__, vars(value)]
    return gc.get_referents(value)
