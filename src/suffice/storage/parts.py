"""Checked access to an artifact: each field of its configuration and each tensor is taken once and validated.

A `from_parts` reads like a description of its artifact. A value that is missing, of another type, shape or range, or
left over at the end raises a ValueError that names it, what was expected and what was got. Digests show that a file
is unchanged since it was written, not that its values are possible.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from suffice.storage.serializable import canonical_layout
from suffice.utils.text import brief

T = TypeVar("T")

LARGEST = 1 << 53
"""Largest integer that is accepted: up to it, float64 is exact."""


@dataclass(frozen=True)
class Range:
    """Range of finite numbers.

    Attributes:
        least: Lower bound, included.
        most: Upper bound, included.
        above: Lower bound, excluded.
        below: Upper bound, excluded.
    """

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __str__(self) -> str:
        """Return the range as it stands in a message, such as "finite and above 0"."""
        limits = {"above": self.above, "at least": self.least, "at most": self.most, "below": self.below}
        stated = [f"{word} {limit:g}" for word, limit in limits.items() if math.isfinite(limit)]
        return " and ".join(["finite", *stated])

    def holds(self, value: float) -> bool:
        """Return whether a number is in the range."""
        return math.isfinite(value) and self.least <= value <= self.most and self.above < value < self.below

    def outside(self, values: Tensor) -> Tensor:
        """Return a boolean tensor that is True where an element is outside the range."""
        inside = (values >= self.least) & (values <= self.most) & (values > self.above) & (values < self.below)
        return ~(inside & values.isfinite())


ANY = Range()
POSITIVE = Range(above=0)
INVERTIBLE = Range(least=torch.finfo(torch.float32).tiny, most=torch.finfo(torch.float32).max)
"""Positive numbers with a finite reciprocal in every type that predictions are computed in."""

NOT_NEGATIVE = Range(least=0)
SHARE = Range(least=0, most=1)
INSIDE = Range(above=0, below=1)


class Parts:
    """Fields and tensors of an artifact that have not been taken yet.

    Args:
        fields: Configuration, or a mapping within it.
        tensors: Tensors by name.
        source: Name of the artifact, for messages.
        sizes: Known sizes of dimensions, by the letters that shapes are written in. The size of any other letter is
            that of the first tensor that has it.
        floating: Type of the tensors for which no other is stated; None for float32 or float64.
        path: Path of the fields within the configuration, for messages.
        prefix: Prefix of the tensors' names, for messages.
    """

    def __init__(
        self,
        fields: object,
        tensors: Mapping[str, Tensor],
        source: str = "an artifact",
        *,
        sizes: Mapping[str, int] | None = None,
        floating: torch.dtype | None = None,
        path: str = "",
        prefix: str = "",
    ) -> None:
        self.sizes, self.floating = dict(sizes or {}), floating
        self._source, self._path, self._prefix = source, path, prefix
        self._tensors, self._children = dict(tensors), list[Parts]()
        if not isinstance(fields, Mapping):
            self._refuse(path.rstrip(".") or "the configuration", "a mapping", fields)
        self._fields = dict(fields)

    def __contains__(self, name: str) -> bool:
        """Return whether there is a field or a tensor of that name."""
        return name in self._fields or name in self._tensors

    def take(self, name: str) -> Any:
        """Take a field without a check of its value."""
        value = self._field(name)
        del self._fields[name]
        return value

    def none(self, name: str) -> bool:
        """Return whether a field, which must be present, is null, and take it if so."""
        if self._field(name) is None:
            del self._fields[name]
            return True
        return False

    def is_text(self, name: str) -> bool:
        """Return whether a field, which must be present, is a string."""
        return isinstance(self._field(name), str)

    def text(self, name: str) -> str:
        """Take a field that is a string."""
        return self._check_text(name, self.take(name))

    def digest(self, name: str) -> str:
        """Take a field that is a SHA-256 in hexadecimal digits."""
        value = self.text(name)
        return value if re.fullmatch("[0-9a-f]{64}", value) else self.refuse(name, "64 hexadecimal digits", value)

    def texts(self, name: str) -> tuple[str, ...]:
        """Take a field that is a list of strings."""
        return tuple(self._check_text(f"{name}[{i}]", item) for i, item in enumerate(self._take_list(name)))

    def choice(self, name: str, allowed: Collection[T]) -> T:
        """Take a field that equals one of the allowed values and has its type."""
        value = self.take(name)
        matches = (item for item in allowed if type(item) is type(value) and item == value)
        match = next(matches, None)
        return self.refuse(name, f"one of {tuple(allowed)}", value) if match is None else match

    def count(self, name: str, least: int = 0, most: int = LARGEST) -> int:
        """Take a field that is an integer from `least` to `most`."""
        return self._check_integer(name, self.take(name), least, most)

    def counts(self, name: str, length: int | None = None, least: int = 0) -> tuple[int, ...]:
        """Take a field that is a list of integers."""
        items = enumerate(self._take_list(name, length))
        return tuple(self._check_integer(f"{name}[{i}]", item, least) for i, item in items)

    def number(self, name: str, within: Range = ANY, also: Collection[float] = ()) -> float:
        """Take a field that is a number in a range, or one of a few others, such as NaN."""
        return self._check_number(name, self.take(name), within, also)

    def numbers(self, name: str, length: int | None, within: Range = ANY, also: Collection[float] = ()) -> list[float]:
        """Take a field that is a list of numbers."""
        items = enumerate(self._take_list(name, length))
        return [self._check_number(f"{name}[{i}]", item, within, also) for i, item in items]

    def inner(self, name: str, prefix: str | None = None) -> "Parts":
        """Take a field that is a mapping, as `Parts` of its own.

        It gets the tensors with the prefix in their names; with an empty prefix it shares all of them, with None it
        gets none.
        """
        return self._child(name, self.take(name), prefix)

    def each(self, name: str, prefix: str | None = None) -> list["Parts"]:
        """Take a field that is a list of mappings; item k gets the tensors whose names start with prefix, k and "."."""
        items = enumerate(self._take_list(name))
        return [self._child(f"{name}[{k}]", item, None if prefix is None else f"{prefix}{k}.") for k, item in items]

    def under(self, prefix: str) -> "Parts":
        """Take the tensors with the prefix in their names, as `Parts` without fields."""
        return self._child("", {}, prefix)

    def tensor(
        self,
        name: str,
        shape: str,
        within: Range = ANY,
        also: Collection[float] = (),
        *,
        dtype: torch.dtype | None = None,
        rising: bool = False,
    ) -> Tensor:
        """Take a tensor, in canonical layout.

        Args:
            name: Name after the prefix.
            shape: Size of each dimension, separated by spaces: a number, a letter that stands for the same size
                throughout the artifact, or * for any size.
            within: Range of the elements.
            also: Infinities that are accepted besides.
            dtype: Type; None for `floating`.
            rising: Whether no element may be less than the one before; integers may not be equal either.
        """
        if name not in self._tensors:
            self.refuse_tensor(name, f"present, of shape ({shape})", "none")
        value = self._tensors.pop(name)
        allowed = [dtype or self.floating or torch.float32, dtype or self.floating or torch.float64]
        if value.dtype not in allowed:
            self.refuse_tensor(name, f"of type {' or '.join(map(str, dict.fromkeys(allowed)))}", value.dtype)
        self._check_shape(name, value, shape)
        outside = within.outside(value)
        for infinity in also:
            outside = outside & (value != infinity)
        if bool(outside.any()):
            self.refuse_tensor(name, f"{within} throughout", f"an element {value[outside][0].item():g}")
        if rising and bool((value[1:] - value[:-1] < (0 if value.is_floating_point() else 1)).any()):
            self.refuse_tensor(name, "in rising order", "elements that are not")
        return canonical_layout(value)

    def tensor_like(self, name: str, other: Tensor, also: Collection[float] = ()) -> Tensor:
        """Take a tensor of the shape and type of another."""
        return self.tensor(name, " ".join(map(str, other.shape)), also=also, dtype=other.dtype)

    def refuse(self, name: str, expected: str, got: object) -> NoReturn:
        """Raise a ValueError about a field."""
        self._refuse(self._path + name, expected, repr(got))

    def refuse_tensor(self, name: str, expected: str, got: object) -> NoReturn:
        """Raise a ValueError about a tensor."""
        self._refuse(f"tensor {self._prefix}{name}", expected, got)

    def finish(self) -> None:
        """Raise a ValueError if any field or tensor has not been taken."""
        for name, value in self._fields.items():
            self.refuse(str(name), "absent", value)
        for name, tensor in self._tensors.items():
            self.refuse_tensor(name, "absent", f"one of shape {tuple(tensor.shape)}")
        for child in self._children:
            child.finish()

    def _refuse(self, what: str, expected: str, got: object) -> NoReturn:
        raise ValueError(f"expected {brief(what)} to be {expected}, got {brief(got)} in {self._source}; save it again")

    def _child(self, name: str, fields: object, prefix: str | None) -> "Parts":
        """Return `Parts` of nested fields and of the tensors with a prefix, which `finish` checks too."""
        keys = [] if prefix is None else [key for key in self._tensors if key.startswith(prefix)]
        tensors = {key.removeprefix(prefix or ""): self._tensors.pop(key) for key in keys}
        path = f"{self._path}{name}." if name else self._path
        options: dict[str, Any] = {"sizes": self.sizes, "floating": self.floating}
        child = Parts(fields, tensors, self._source, path=path, prefix=self._prefix + (prefix or ""), **options)
        if prefix == "":
            child._tensors = self._tensors = tensors
        self._children.append(child)
        return child

    def _field(self, name: str) -> Any:
        if name not in self._fields:
            self._refuse(self._path + name, "present", "nothing")
        return self._fields[name]

    def _take_list(self, name: str, length: int | None = None) -> list[Any]:
        value = self.take(name)
        if not isinstance(value, (list, tuple)) or length not in (None, len(value)):
            self.refuse(name, "a list" if length is None else f"a list of {length}", value)
        return list(value)

    def _check_text(self, name: str, value: object) -> str:
        return value if isinstance(value, str) else self.refuse(name, "a string", value)

    def _check_integer(self, name: str, value: object, least: int, most: int = LARGEST) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.refuse(name, f"an integer from {least} to {most}", value)
        return value

    def _check_number(self, name: str, value: object, within: Range, also: Collection[float]) -> float:
        if isinstance(value, float) or (type(value) is int and abs(value) <= LARGEST):
            number = float(value)
            is_nan = number != number
            if within.holds(number) or any(number == other or (is_nan and other != other) for other in also):
                return number
        return self.refuse(name, f"a number, {within}", value)

    def _check_shape(self, name: str, value: Tensor, shape: str) -> None:
        letters, actual, sizes = shape.split(), tuple(value.shape), dict(self.sizes)
        fits = len(letters) == len(actual)
        for letter, size in zip(letters, actual, strict=False):
            expected = size if letter == "*" else int(letter) if letter.isdigit() else sizes.setdefault(letter, size)
            fits = fits and expected == size
        if not fits:
            known = [f" with {letter} = {self.sizes[letter]}" for letter in self.sizes if letter in letters]
            self.refuse_tensor(name, f"of shape ({', '.join(letters)}){' and'.join(known)}", actual)
        self.sizes = sizes


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with a prefix added to their names, so that `Parts` can separate them from others."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def numbered(
    prefix: str, items: Iterable[tuple[dict[str, Any], Mapping[str, Tensor]]]
) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Join the parts of several objects, so that `Parts.each` can separate them.

    Args:
        prefix: Prefix of the tensors' names; the number of the object and "." follow it.
        items: Configuration and tensors of each object.

    Returns:
        The configurations in a list, and all tensors under their prefixed names.
    """
    configurations, tensors = [], dict[str, Tensor]()
    for k, (configuration, item_tensors) in enumerate(items):
        configurations.append(configuration)
        tensors |= prefixed(f"{prefix}{k}.", item_tensors)
    return configurations, tensors
