"""Modules of a package, imported when they are first asked for."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType


def modules_of(package: str) -> Callable[[str], ModuleType]:
    """Return a package's `__getattr__` that imports its modules on first use.

    The function raises an AttributeError for a name that is no module of the package.
    """

    def module(name: str) -> ModuleType:
        whole = f"{package}.{name}"
        if name.startswith("_") or find_spec(whole) is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return import_module(whole)

    return module
