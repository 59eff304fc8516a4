"""Calls of modules that a function answers in the modules' place, within a block."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import get_ident
from typing import Any

from torch import nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode

Handler = Callable[[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Function `(name, forward, args, kwargs) -> output` that replaces the forward pass of a module."""

Finished = Callable[[str, Any], None]
"""Function `(name, output)` of what a module returned, its hooks included."""


class Known:
    """Output of a module that does not run, which hooks on the module have seen already.

    Attributes:
        output: The output.
    """

    def __init__(self, output: Any) -> None:
        self.output = output


class Reached(BaseException):
    """Signal that a pass has reached its end; not an `Exception`, which a model might catch.

    Attributes:
        output: Result of the pass.
    """

    def __init__(self, output: Any) -> None:
        self.output = output


@contextmanager
def intercepted(modules: Mapping[str, nn.Module], handler: Handler, finished: Finished | None = None) -> Iterator[None]:
    """Replace the forward passes of modules in this thread.

    Hooks on the modules run as in any pass, unless the handler returns a `Known` output. A module that runs under
    several names keeps the first.

    Args:
        modules: Modules by name, preferably those of a twin (`suffice.twin`).
        handler: Function that returns the output of a call; `forward` is the module's own pass.
        finished: Function that is called after the hooks, unless the output is a `Known` one.
    """
    with ExitStack() as stack:
        for module, name in {module: name for name, module in reversed([*modules.items()])}.items():
            ended = _End(name, finished)
            stack.enter_context(ended.observing(module))
            stack.enter_context(_replaced(module, name, handler, ended))
        yield


@contextmanager
def tracer_stack_restored() -> Iterator[None]:
    """Restore the stack of modules that a trace by `torch.export` keeps, if a pass ends by `Reached`.

    The tracer removes a module from its stack when its call returns, and refuses a stack with other modules.
    """
    mode = get_proxy_mode()
    stack = getattr(getattr(mode, "tracer", None), "module_stack", {})
    depth = len(stack)
    try:
        yield
    except Reached:
        while len(stack) > depth:
            stack.popitem()
        raise


def pass_through(_name: str, _forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the input of a module in place of its output."""
    return args[0] if args else kwargs["input"]


class _End:
    """End of the calls of a module in this thread.

    A call of the module runs its hooks, and ends with them; a call of its `forward`, which some models make, does not.
    """

    def __init__(self, name: str, finished: Finished | None) -> None:
        self._name, self._finished, self._thread = name, finished, get_ident()
        self._runs_hooks = False

    @contextmanager
    def observing(self, module: nn.Module) -> Iterator[None]:
        """Observe the calls of a module that run its hooks, by hooks before and after the others."""
        if self._finished is None:
            yield
            return
        handles = [module.register_forward_pre_hook(self._enter), module.register_forward_hook(self._leave)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def after_forward(self) -> Callable[[Any], None] | None:
        """Return what is to be called with the output of a forward that no hooks follow; None if they do."""
        runs_hooks, self._runs_hooks = self._runs_hooks, False
        return None if runs_hooks or self._finished is None else partial(self._finished, self._name)

    def _enter(self, _module: nn.Module, _args: Any) -> None:
        if get_ident() == self._thread:
            self._runs_hooks = True

    def _leave(self, _module: nn.Module, _args: Any, output: Any) -> None:
        if get_ident() == self._thread and self._finished is not None:
            self._finished(self._name, output)


@contextmanager
def _replaced(module: nn.Module, name: str, handler: Handler, end: _End) -> Iterator[None]:
    attributes, thread, forward = vars(module), get_ident(), module.forward
    had, before, hooks = "forward" in attributes, attributes.get("forward"), module._forward_hooks

    def call(*args: Any, **kwargs: Any) -> Any:
        if get_ident() != thread:  # passes of other threads on the same model continue
            return forward(*args, **kwargs)
        finished = end.after_forward()
        output = handler(name, forward, args, kwargs)
        known = isinstance(output, Known)
        module._forward_hooks = OrderedDict() if known else hooks  # torch reads them after the forward
        if finished is not None and not known:
            finished(output)
        return output.output if known else output

    attributes["forward"] = call
    try:
        yield
    finally:
        module._forward_hooks = hooks
        if had:
            attributes["forward"] = before
        else:
            attributes.pop("forward", None)
