"""Lazy import of the modules of a package."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType


def modules_of(package: str) -> Callable[[str], ModuleType]:
    """Return a `__getattr__` for a package that imports its modules on first use.

    The function raises an AttributeError for a name that is no module of the package.
    """

    def import_attribute(name: str) -> ModuleType:
        qualified = f"{package}.{name}"
        if name.startswith("_") or find_spec(qualified) is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return import_module(qualified)

    return import_attribute
