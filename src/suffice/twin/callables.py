"""What can be called and refers to a model: copies of it that refer to the model's copy.

A function with a closure is the model's own if a method of one of its modules has made it, as hooks that collect a
network's features are; such a copy refers to the model's copy. Any other is somebody else's. As a hook it stays as it
is. As an attribute it may be how the model computes, or what another thread does meanwhile: it refers to the copy
where that runs, and to the model elsewhere.
"""

import functools
import threading
import types
from collections.abc import Callable
from typing import Any

from torch import nn

Copy = Callable[[Any], Any]
"""From something to its copy, which is itself where there is none."""


class _Thread(threading.local):
    running = False


THREAD = _Thread()
"""Whether a twin is running in this thread."""

CALLABLE = (nn.Module, types.MethodType, types.FunctionType, functools.partial)
"""What a closure may hold that computes."""


def method(found: types.MethodType, copy: Copy) -> Any:
    """A method of a copy."""
    function, owner = copy(found.__func__), copy(found.__self__)
    same = function is found.__func__ and owner is found.__self__
    return found if same else types.MethodType(function, owner)


def builtin(found: Any, copy: Copy) -> Any:
    """A function written in C, which may be a method of something."""
    owner = found.__self__
    if isinstance(owner, (type(None), types.ModuleType, type)) or (new := copy(owner)) is owner:
        return found
    return getattr(new, found.__name__)


def partial(found: functools.partial[Any], copy: Copy) -> Any:
    """A partial function of copies."""
    function, args = copy(found.func), [*map(copy, found.args)]
    keywords = {name: copy(value) for name, value in found.keywords.items()}
    kept = {name: copy(value) for name, value in vars(found).items()}
    before = found.func, *found.args, *found.keywords.values(), *vars(found).values()
    after = function, *args, *keywords.values(), *kept.values()
    if all(a is b for a, b in zip(before, after, strict=True)):
        return found
    new = functools.partial(function, *args, **keywords)
    vars(new).update(kept)
    return new


def held(function: types.FunctionType) -> list[Any]:
    """What a function refers to by its closure, its defaults and its attributes."""
    cells = [cell.cell_contents for cell in function.__closure__ or () if cell != types.CellType()]
    return [*cells, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *vars(function).values()]


def is_own(function: types.FunctionType, owners: list[Any]) -> bool:
    """Whether a function was made in a method of the class of one of `owners`."""
    return any(
        function.__module__ == base.__module__ and function.__qualname__.startswith(f"{base.__qualname__}.")
        for owner in owners
        for base in type(owner).__mro__
    )


def hollow(function: types.FunctionType) -> types.FunctionType:
    """The same function, which refers to nothing yet; see `fill`."""
    cells = tuple(types.CellType() for _ in function.__closure__ or ())
    return types.FunctionType(function.__code__, function.__globals__, function.__name__, None, cells or None)


def fill(new: types.FunctionType, function: types.FunctionType, copy: Copy) -> None:
    """Let a hollow function refer to copies of what the function refers to."""
    for cell, source in zip(new.__closure__ or (), function.__closure__ or (), strict=True):
        if source != types.CellType():
            cell.cell_contents = copy(source.cell_contents)
    new.__defaults__ = function.__defaults__ and tuple(map(copy, function.__defaults__))
    new.__kwdefaults__ = function.__kwdefaults__ and {k: copy(v) for k, v in function.__kwdefaults__.items()}
    new.__qualname__ = function.__qualname__
    vars(new).update({name: copy(value) for name, value in vars(function).items()})


class Elsewhere:
    """A function that is another where a twin runs.

    Args:
        function: what it is elsewhere.
        here: what it is where a twin runs.
    """

    def __init__(self, function: Callable[..., Any], here: Callable[..., Any]) -> None:
        self.function, self.here = function, here

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the one or the other returns."""
        return (self.here if THREAD.running else self.function)(*args, **kwargs)
