"""What an object is to a copy of a model: an atom, plain, of the world outside, or a compiled whole."""

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


class _Plain:
    """Of the layout that objects of plain Python classes have."""


def is_plain(value: object) -> bool:
    """Whether an object is no more than what its `__dict__` holds, and can be there twice."""
    kind = type(value)
    if kind.__basicsize__ != _Plain.__basicsize__ or any(vars(base).get("__slots__") for base in kind.__mro__):
        return False
    own_ways = ("__reduce_ex__", "__reduce__", "__getstate__", "__new__")
    if any(getattr(kind, way) is not getattr(object, way) for way in own_ways):
        return False
    if any(hasattr(kind, way) for way in ("__del__", "__copy__", "__deepcopy__", "__setstate__")):
        return False
    return not any(map(_is_of_world, [value, *vars(value).values()]))


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
