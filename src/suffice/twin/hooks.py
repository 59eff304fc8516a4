"""Modules by name or pattern, and forward hooks on their outputs that are removed at the end of a block."""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from suffice.twin import is_twin
from suffice.utils.text import brief


def matching(model: nn.Module, patterns: str | Sequence[str]) -> dict[str, nn.Module]:
    """Return the modules whose names match a pattern (`fnmatch`), by name, in the model's order, each once.

    Raises:
        ValueError: If a pattern matches no module; the nearest names are listed.
    """
    modules = {name: module for name, module in model.named_modules(remove_duplicate=False) if name}
    patterns = [patterns] if isinstance(patterns, str) else patterns
    chosen: dict[int, tuple[str, nn.Module]] = {}
    unmatched = set(patterns)
    for name, module in modules.items():
        matches = {pattern for pattern in patterns if fnmatchcase(name, pattern)}
        unmatched -= matches
        if matches:
            chosen.setdefault(id(module), (name, module))
    for pattern in sorted(unmatched):
        nearest = difflib.get_close_matches(pattern, modules, n=3, cutoff=0.0)
        raise ValueError(
            f"expected names or patterns of modules, got {brief(pattern)!r}, which matches no module; nearest: "
            f"{nearest}"
        )
    return dict(chosen.values())


def by_name(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """Return the modules of exactly these names, or those that `matching` finds if one is not a name."""
    try:
        return {name: model.get_submodule(name) for name in names}
    except AttributeError:
        return matching(model, names)


def check_hookable(modules: Mapping[str, nn.Module]) -> None:
    """Raise a ValueError unless all modules are part of a twin, where hooks on them run."""
    for name in [name for name, module in modules.items() if not is_twin(module)]:
        raise ValueError(
            f"expected a model whose modules run forward hooks, got {name or 'the model'!r}, which is compiled or "
            "scripted, or inside a part that is; pass the model as it was before that"
        )


@contextmanager
def hooked(modules: Mapping[str, nn.Module], hook: Callable[[str, Tensor], Tensor | None]) -> Iterator[None]:
    """Call `hook(name, output)` on each output of the modules; a tensor that it returns replaces the output.

    The hooks are removed at the end of the block, also after an exception.

    Args:
        modules: Modules of a twin (`suffice.twin`), by name.
        hook: Function of a module's name and output.

    Raises:
        TypeError: If the output of a module is not a tensor.
        RuntimeError: If a module has not run by the end of the block.
    """
    not_run = set(modules)

    def make_hook(name: str) -> Callable[[nn.Module, Any, Any], Tensor | None]:
        def forward_hook(_module: nn.Module, _inputs: Any, output: Any) -> Tensor | None:
            not_run.discard(name)
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
            handles.append(module.register_forward_hook(make_hook(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()
    if not_run:
        raise RuntimeError(
            f"expected every chosen module to run in a pass, but {sorted(not_run)} did not; leave out modules "
            "that the model does not call, and pass the model itself, not a compiled or scripted one"
        )
