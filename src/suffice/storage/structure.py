"""What a model computes beside its weights, as far as its modules say, to be compared when something is loaded for it.

The same weights behind another activation, stride or rate of dropout are another network. Kept of each of torch's own
modules are its class and what it was made with (its `__constants__`), and of every module the functions of torch among
its attributes. Compared is what both have, so that another version of torch, or a compiled part, makes no difference.
Not compared is what a user's own `forward` does, nor are hooks, which run as in any pass.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from suffice.storage.fingerprint import COMPILED
from suffice.storage.parts import Parts
from suffice.utils.text import brief

Structure = Mapping[str, Mapping[str, Any]]
"""From names of modules to attributes and their values as JSON keeps them; a class stands under "class"."""

_WITHOUT_EFFECT = frozenset(("training", "inplace", "momentum"))
"""Attributes that change nothing in evaluation mode."""

_VALUES = (bool, int, float, str, type(None))


def structure(model: nn.Module) -> Structure:
    """The structure of a model."""
    kept = {}
    for name, module in _modules(model).items():
        of_torch = type(module).__module__.startswith("torch.nn.")
        told = {"class", *getattr(module, "__constants__", ())} if of_torch else set[str]()
        own = {
            key: value
            for key, value in _described(module).items()
            if key in told or callable(getattr(module, key, None))
        }
        if own:
            kept[name] = own
    return kept


def structure_of(parts: Parts) -> Structure:
    """The structure in an artifact, none if it was made before there were any.

    Raises:
        ValueError: if it is no such thing.
    """
    if "structure" not in parts:
        return {}
    found = parts.take("structure")
    if not isinstance(found, Mapping) or not all(isinstance(kept, Mapping) for kept in found.values()):
        parts.refuse("structure", "a mapping of mappings", found)
    return found


def check_structure(model: nn.Module, expected: Structure) -> None:
    """Raise a ValueError that names the first module of a model that is not what was expected."""
    modules = _modules(model)
    for name, kept in expected.items():
        found = _described(modules[name]) if name in modules else {}
        for key, value in kept.items():
            if found.get(key, value) != value:
                what = "" if key == "class" else f"{brief(key)}="
                raise ValueError(
                    f"expected {what}{brief(value)} in module {brief(name)!r}, as when this was learned, got "
                    f"{what}{brief(found[key])}; the weights are the same, but not what is made of them: build the "
                    "network as it was then"
                )


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    """Modules by the names that they have uncompiled."""
    named = model.named_modules(remove_duplicate=False)
    return {f"{name}.".replace(COMPILED, "")[:-1]: module for name, module in named}  # the one inside comes last


def _described(module: nn.Module) -> dict[str, Any]:
    """The class of a module, and what its attributes are, as far as they can be kept."""
    name = module.original_name if isinstance(module, torch.jit.ScriptModule) else type(module).__name__
    described: dict[str, Any] = {"class": name}
    for key, value in vars(module).items():
        if key.startswith("_") or key in _WITHOUT_EFFECT:
            continue
        if isinstance(value, _VALUES):
            described[key] = value if not isinstance(value, float) or abs(value) < float("inf") else str(value)
        elif isinstance(value, (tuple, list)) and all(isinstance(item, _VALUES) for item in value):
            described[key] = [*value]
        elif callable(value) and str(getattr(value, "__module__", "")).startswith("torch"):
            described[key] = getattr(value, "__name__", type(value).__name__)
    return described
