"""Copies of methods, partial functions and closures that refer to a model: the copies refer to the model's copy.

A function with a closure belongs to the model if it was defined in a method of one of its modules, as hooks that
collect features often are; its copy refers to the model's copy. Any other function belongs to the caller. As a hook
it is shared. As an attribute it may be part of the model's computation, or used by another thread at the same time:
then it refers to the model's copy in a thread that runs a twin, and to the model in others (`TwinDispatch`).
"""

import functools
import threading
import types
from collections.abc import Callable
from typing import Any

from torch import nn

Copy = Callable[[Any], Any]
"""Function that returns the copy of an object, or the object itself if it is shared."""


class _ThreadState(threading.local):
    runs_twin = False


THREAD_STATE = _ThreadState()
"""State of each thread: whether it runs a twin."""

CALLABLE = (nn.Module, types.MethodType, types.FunctionType, functools.partial)
"""Types of the callables that a closure may hold."""


def copy_method(method: types.MethodType, copy: Copy) -> Any:
    """Return a bound method with its function and its owner copied."""
    function, owner = copy(method.__func__), copy(method.__self__)
    unchanged = function is method.__func__ and owner is method.__self__
    return method if unchanged else types.MethodType(function, owner)


def copy_builtin(function: Any, copy: Copy) -> Any:
    """Return a function written in C, bound to the copy of its owner if it is a method."""
    owner = function.__self__
    if isinstance(owner, (type(None), types.ModuleType, type)) or (new_owner := copy(owner)) is owner:
        return function
    return getattr(new_owner, function.__name__)


def copy_partial(partial: functools.partial[Any], copy: Copy) -> Any:
    """Return a partial function with its function, arguments and attributes copied."""
    function, args = copy(partial.func), [*map(copy, partial.args)]
    keywords = {name: copy(value) for name, value in partial.keywords.items()}
    attributes = {name: copy(value) for name, value in vars(partial).items()}
    before = partial.func, *partial.args, *partial.keywords.values(), *vars(partial).values()
    after = function, *args, *keywords.values(), *attributes.values()
    if all(a is b for a, b in zip(before, after, strict=True)):
        return partial
    copied = functools.partial(function, *args, **keywords)
    vars(copied).update(attributes)
    return copied


def referenced_values(function: types.FunctionType) -> list[Any]:
    """Return the values in a function's closure, defaults and attributes."""
    cells = [cell.cell_contents for cell in function.__closure__ or () if cell != types.CellType()]
    return [*cells, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *vars(function).values()]


def is_defined_in_method(function: types.FunctionType, owners: list[Any]) -> bool:
    """Return whether a function was defined in a method of the class of one of the owners."""
    return any(
        function.__module__ == base.__module__ and function.__qualname__.startswith(f"{base.__qualname__}.")
        for owner in owners
        for base in type(owner).__mro__
    )


def with_empty_closure(function: types.FunctionType) -> types.FunctionType:
    """Return a function with the same code and empty closure cells, to be filled by `copy_references`."""
    cells = tuple(types.CellType() for _ in function.__closure__ or ())
    return types.FunctionType(function.__code__, function.__globals__, function.__name__, None, cells or None)


def copy_references(new: types.FunctionType, function: types.FunctionType, copy: Copy) -> None:
    """Fill the closure, defaults and attributes of a new function with copies of those of another."""
    for cell, source in zip(new.__closure__ or (), function.__closure__ or (), strict=True):
        if source != types.CellType():
            cell.cell_contents = copy(source.cell_contents)
    new.__defaults__ = function.__defaults__ and tuple(map(copy, function.__defaults__))
    new.__kwdefaults__ = function.__kwdefaults__ and {k: copy(v) for k, v in function.__kwdefaults__.items()}
    new.__qualname__ = function.__qualname__
    vars(new).update({name: copy(value) for name, value in vars(function).items()})


class TwinDispatch:
    """Callable that uses one function in threads that run a twin, and another in all other threads.

    Args:
        outside: Function for threads that run no twin.
        inside: Function for threads that run a twin.
    """

    def __init__(self, outside: Callable[..., Any], inside: Callable[..., Any]) -> None:
        self.outside, self.inside = outside, inside

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the result of the function for this thread."""
        return (self.inside if THREAD_STATE.runs_twin else self.outside)(*args, **kwargs)
