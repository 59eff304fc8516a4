"""Checks of arguments, so that one of another kind is refused by its name and not where it is used."""

import math
import operator
from numbers import Real
from typing import SupportsIndex, cast

import numpy as np
import torch


def shown(value: object) -> str:
    """Return a value as an error message shows it, at most a few dozen characters long."""
    text = repr(value) if isinstance(value, (str, int, float, type(None))) else f"a {type(value).__name__}"
    return text if len(text) < 60 else f"{text[:57]}…"


def whole(name: str, value: object, least: int | None = 1) -> int:
    """Return a whole number of at least `least`, or any for None.

    Raises:
        TypeError: For a value that is no whole number, such as 10.0 or True.
        ValueError: For a smaller one.
    """
    try:
        count = operator.index(cast(SupportsIndex, value))
    except TypeError:
        count = None
    if count is None or isinstance(value, bool):
        raise TypeError(f"expected {name} as a whole number, got {shown(value)}")
    if least is not None and count < least:
        raise ValueError(f"expected {name} of at least {least}, got {count}")
    return count


def number(name: str, value: object, what: str = "a number") -> float:
    """Return a number as a float; NaN and infinity are numbers.

    Raises:
        TypeError: For a value that is no number.
    """
    scalar = isinstance(value, torch.Tensor) and value.ndim == 0 and value.dtype != torch.bool
    if not scalar and (not isinstance(value, Real) or isinstance(value, bool)):
        raise TypeError(f"expected {name} as {what}, got {shown(value)}")
    return float(cast(float, value))


def positive(name: str, value: object, what: str = "a number above 0") -> float:
    """Return a finite number above 0.

    Raises:
        TypeError: For a value that is no number.
        ValueError: For 0, a negative number, infinity or NaN.
    """
    result = number(name, value, what)
    if not 0 < result < math.inf:
        raise ValueError(f"expected {name} as {what}, got {result}")
    return result


def flag(name: str, value: object) -> bool:
    """Return True or False.

    Raises:
        TypeError: For any other value, such as "no" or 2.0, which would count as true.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"expected {name}=True or {name}=False, got {shown(value)}")
    return bool(value)


def optional_generator(value: object) -> None:
    """Raise a TypeError unless the value is a generator or None."""
    if value is not None and not isinstance(value, torch.Generator):
        raise TypeError(
            f"expected a torch.Generator or None, got {shown(value)}; pass generator=torch.Generator().manual_seed(…)"
        )
