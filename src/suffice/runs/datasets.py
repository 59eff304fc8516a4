"""Data by name: labeled batches to tune on, and labeled batches to measure on."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from suffice import data
from suffice.batches import Loader
from suffice.data.splits.texts import Texts
from suffice.runs.networks import imported
from suffice.utils.text import brief


@dataclass(frozen=True)
class Loaders:
    """Labeled batches of two splits.

    Attributes:
        validation: Batches to tune on.
        test: Batches to measure on.
        class_names: Names of the classes; empty if they are not known.
    """

    validation: Loader
    test: Loader
    class_names: tuple[str, ...] = ()


def load(name: str) -> Loaders:
    """Load data by name.

    Args:
        name: Name of a stored data set, "digits", or `package.module:function`, a function without arguments whose
            result has the attributes `validation` and `test`: loaders, or splits with `batches()`.

    Raises:
        FileNotFoundError: If there is no data set of that name.
        ValueError: If there is no function of that name.
        TypeError: If the result has other attributes.
    """
    sets: Any = imported(name) if ":" in name else data.load(name)
    validation, test = (_batches(getattr(sets, part, None), name, part) for part in ("validation", "test"))
    return Loaders(validation, test, tuple(getattr(sets, "classes", ())))


def _batches(part: Any, name: str, what: str) -> Loader:
    """Return the batches of a split."""
    batches = part.batches() if hasattr(part, "batches") else part
    if not isinstance(batches, Iterable) or isinstance(part, Texts):
        raise TypeError(
            f"expected {what} batches of inputs and labels in {brief(name)!r}, got {type(part).__name__}; name a "
            "function, package.module:function, whose result has the loaders as .validation and .test"
        )
    return batches
