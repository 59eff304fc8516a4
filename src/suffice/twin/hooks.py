"""Modules by name or pattern, and hooks on their outputs that are gone when the body is done."""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from suffice.twin import is_twin
from suffice.utils.text import brief


def matching(model: nn.Module, patterns: str | Sequence[str]) -> dict[str, nn.Module]:
    """Modules whose name is one of `patterns` or matches one (`fnmatch`), in the model's order, each once.

    Raises:
        ValueError: if a pattern matches no module; the nearest names are listed.
    """
    modules = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    wanted = [patterns] if isinstance(patterns, str) else patterns
    chosen: dict[int, tuple[str, nn.Module]] = {}
    missing = set(wanted)
    for name, module in modules.items():
        matches = {pattern for pattern in wanted if fnmatchcase(name, pattern)}
        missing -= matches
        if matches:
            chosen.setdefault(id(module), (name, module))
    for pattern in sorted(missing):
        nearest = difflib.get_close_matches(pattern, modules, n=3, cutoff=0.0)
        raise ValueError(
            f"expected names or patterns of modules, got {brief(pattern)!r}, which matches none; nearest: {nearest}"
        )
    return dict(chosen.values())


def by_name(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """Modules of exactly these names; otherwise as `matching`, which searches the whole model."""
    try:
        return {name: model.get_submodule(name) for name in names}
    except AttributeError:
        return matching(model, names)


def check_open(modules: Mapping[str, nn.Module]) -> None:
    """Raise a ValueError unless modules are part of a twin, where they can be watched."""
    for name in [name for name, module in modules.items() if not is_twin(module)]:
        raise ValueError(
            f"expected a model whose modules can be watched, got {name or 'the model'!r}, which is compiled or "
            "scripted, or inside a part that is; pass the model as it was before that"
        )


@contextmanager
def hooked(modules: Mapping[str, nn.Module], hook: Callable[[str, Tensor], Tensor | None]) -> Iterator[None]:
    """Call `hook(name, output)` whenever one of `modules` has run; what it returns, if anything, flows on.

    The modules are those of a twin (`suffice.twin`); the hooks are removed whatever happens.

    Raises:
        TypeError: if a module puts out something other than a tensor.
        RuntimeError: if the body ends without one of the modules having run.
    """
    silent = set(modules)

    def watch(name: str) -> Callable[[nn.Module, Any, Any], Tensor | None]:
        def forward_hook(_module: nn.Module, _inputs: Any, output: Any) -> Tensor | None:
            silent.discard(name)
            if not isinstance(output, Tensor):
                raise TypeError(
                    f"expected a tensor from module {name!r}, got {type(output).__name__}; name a module "
                    "inside or after it"
                )
            return hook(name, output)

        return forward_hook

    handles = []
    try:
        for name, module in modules.items():
            handles.append(module.register_forward_hook(watch(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()
    if silent:
        raise RuntimeError(
            f"expected every chosen module to run in a pass, got none of {sorted(silent)} run; leave out modules "
            "that the model does not call, and pass the model itself, not a compiled or scripted one"
        )
