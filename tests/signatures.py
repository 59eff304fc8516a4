"""Names, arguments and defaults of all that a user can call: `python -m tests.signatures` writes them to a file.

The file is what a change of them is seen by: whoever changes one writes it anew and names the change.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import suffice

FILE = Path(__file__).with_suffix(".txt")


def modules() -> Iterator[ModuleType]:
    """All modules of the package but those that run a command."""
    yield suffice
    for info in pkgutil.walk_packages(suffice.__path__, "suffice."):
        if not info.name.endswith("__main__"):
            yield importlib.import_module(info.name)


def signatures() -> Iterator[str]:
    """A line for each public function, class and method, where it is defined."""
    for module in modules():
        for name, found in sorted(vars(module).items()):
            if name.startswith("_") or getattr(found, "__module__", None) != module.__name__:
                continue
            if inspect.isfunction(found) or inspect.isclass(found):
                yield from _lines(f"{module.__name__}.{name}", found)


def _lines(name: str, found: Any) -> Iterator[str]:
    yield name + _arguments(found)
    if inspect.isclass(found):
        for attribute, value in sorted(vars(found).items()):
            function = getattr(value, "__func__", value)  # of a class or a static method
            if inspect.isfunction(function) and (not attribute.startswith("_") or attribute == "__call__"):
                yield f"{name}.{attribute}{_arguments(function)}"


def _arguments(found: Any) -> str:
    """The signature without annotations, which Python's versions write in their own ways."""
    try:
        signature = inspect.signature(found)
    except ValueError:  # of a class that is built in C
        return ""
    plain = [
        one.replace(annotation=inspect.Parameter.empty, default=_Written(one.default))
        if one.default is not inspect.Parameter.empty
        else one.replace(annotation=inspect.Parameter.empty)
        for one in signature.parameters.values()
    ]
    return str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))


class _Written:
    """A default, written without an address."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return getattr(self.value, "__qualname__", None) or repr(self.value)


if __name__ == "__main__":
    FILE.write_text("".join(f"{line}\n" for line in signatures()))
