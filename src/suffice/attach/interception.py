"""Calls of modules that a function answers in the modules' place, within a block."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import Any

from torch import nn

Handler = Callable[[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Function `(name, forward, args, kwargs) -> output` that replaces the forward pass of a module."""


class Reached(BaseException):
    """Signal that a pass has reached its end; not an `Exception`, which a model might catch.

    Attributes:
        output: Result of the pass.
    """

    def __init__(self, output: Any) -> None:
        self.output = output


@contextmanager
def intercepted(modules: Mapping[str, nn.Module], handler: Handler) -> Iterator[None]:
    """Replace the forward passes of modules in this thread; hooks on the modules run as in any pass.

    A module that runs under several names keeps the first.

    Args:
        modules: Modules by name, preferably those of a twin (`suffice.twin`).
        handler: Function that returns the output of a call; `forward` is the module's own pass.
    """
    with ExitStack() as stack:
        for module, name in {module: name for name, module in reversed([*modules.items()])}.items():
            stack.enter_context(_replaced(module, name, handler))
        yield


def pass_through(_name: str, _forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the input of a module in place of its output."""
    return args[0] if args else kwargs["input"]


@contextmanager
def _replaced(module: nn.Module, name: str, handler: Handler) -> Iterator[None]:
    attributes, thread, forward = vars(module), get_ident(), module.forward
    had, before = "forward" in attributes, attributes.get("forward")

    def call(*args: Any, **kwargs: Any) -> Any:
        if get_ident() != thread:  # passes of other threads on the same model continue
            return forward(*args, **kwargs)
        return handler(name, forward, args, kwargs)

    attributes["forward"] = call
    try:
        yield
    finally:
        if had:
            attributes["forward"] = before
        else:
            attributes.pop("forward", None)
