"""What an artifact holds, taken out part by part: fields of its configuration and tensors, each checked.

A `from_parts` reads like a description of its artifact. What is missing, of another type, shape or range, or left over
at the end is a ValueError that names the part, what was expected and what is there. Digests show that a file is as it
was written, not that what was written is possible.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from suffice.storage.stored import stored
from suffice.utils.text import brief

T = TypeVar("T")

LARGEST = 1 << 53
"""Greatest whole number: up to it doubles are exact."""


@dataclass(frozen=True)
class Range:
    """Finite numbers that are possible.

    Attributes:
        least: of them.
        most: of them.
        above: what all exceed.
        below: what exceeds all.
    """

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def __str__(self) -> str:
        """As in an error."""
        limits = {"above": self.above, "at least": self.least, "at most": self.most, "below": self.below}
        stated = [f"{word} {limit:g}" for word, limit in limits.items() if math.isfinite(limit)]
        return " and ".join(["finite", *stated])

    def holds(self, value: float) -> bool:
        """Whether a number is possible."""
        return math.isfinite(value) and self.least <= value <= self.most and self.above < value < self.below

    def outside(self, values: Tensor) -> Tensor:
        """Which elements are not possible."""
        inside = (values >= self.least) & (values <= self.most) & (values > self.above) & (values < self.below)
        return ~(inside & values.isfinite())


ANY = Range()
POSITIVE = Range(above=0)
INVERTIBLE = Range(least=torch.finfo(torch.float32).tiny, most=torch.finfo(torch.float32).max)
"""Numbers above 0 that have a reciprocal in any type that is served."""

NOT_NEGATIVE = Range(least=0)
SHARE = Range(least=0, most=1)
INSIDE = Range(above=0, below=1)


class Parts:
    """Fields and tensors that nobody has taken yet.

    Args:
        fields: the configuration, or a mapping within it.
        tensors: by name.
        source: where they come from, for messages.
        sizes: of dimensions that are known, by the letters that shapes are written in; others are those of the first
            tensor that has them.
        floating: the type of tensors of which no other is stated; None for float32 or float64.
        path: of the fields, for messages.
        prefix: of the tensors' names, for messages.
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
        self._tensors, self._inner = dict(tensors), list[Parts]()
        if not isinstance(fields, Mapping):
            self._refuse(path.rstrip(".") or "the configuration", "a mapping", fields)
        self._fields = dict(fields)

    def __contains__(self, name: str) -> bool:
        """Whether there is a field or a tensor of that name."""
        return name in self._fields or name in self._tensors

    def take(self, name: str) -> Any:
        """A field as it is."""
        value = self._field(name)
        del self._fields[name]
        return value

    def none(self, name: str) -> bool:
        """Whether a field, which must be there, is null; if so, it is taken."""
        if self._field(name) is None:
            del self._fields[name]
            return True
        return False

    def is_text(self, name: str) -> bool:
        """Whether a field, which may be something else, is a text."""
        return isinstance(self._field(name), str)

    def text(self, name: str) -> str:
        """A field that is a text."""
        return self._text(name, self.take(name))

    def digest(self, name: str) -> str:
        """A field that is a SHA-256 in hexadecimal digits."""
        value = self.text(name)
        return value if re.fullmatch("[0-9a-f]{64}", value) else self.refuse(name, "64 hexadecimal digits", value)

    def texts(self, name: str) -> tuple[str, ...]:
        """A field that is a list of texts."""
        return tuple(self._text(f"{name}[{i}]", one) for i, one in enumerate(self._list(name)))

    def choice(self, name: str, allowed: Collection[T]) -> T:
        """A field that is one of some values, of the same type."""
        value = self.take(name)
        same = (one for one in allowed if type(one) is type(value) and one == value)
        found = next(same, None)
        return self.refuse(name, f"one of {tuple(allowed)}", value) if found is None else found

    def count(self, name: str, least: int = 0, most: int = LARGEST) -> int:
        """A field that is a whole number."""
        return self._whole(name, self.take(name), least, most)

    def counts(self, name: str, length: int | None = None, least: int = 0) -> tuple[int, ...]:
        """A field that is a list of whole numbers."""
        return tuple(self._whole(f"{name}[{i}]", one, least) for i, one in enumerate(self._list(name, length)))

    def number(self, name: str, within: Range = ANY, also: Collection[float] = ()) -> float:
        """A field that is a number in a range, or one of a few others, such as NaN."""
        return self._real(name, self.take(name), within, also)

    def numbers(self, name: str, length: int | None, within: Range = ANY, also: Collection[float] = ()) -> list[float]:
        """A field that is a list of numbers."""
        return [self._real(f"{name}[{i}]", one, within, also) for i, one in enumerate(self._list(name, length))]

    def inner(self, name: str, prefix: str | None = None) -> "Parts":
        """A field that is a mapping, with the tensors whose names begin with the prefix; shared where it is empty."""
        return self._within(name, self.take(name), prefix)

    def each(self, name: str, prefix: str | None = None) -> list["Parts"]:
        """A field that is a list of mappings; number k has the tensors whose names begin with prefix, k and a dot."""
        found = enumerate(self._list(name))
        return [self._within(f"{name}[{k}]", one, None if prefix is None else f"{prefix}{k}.") for k, one in found]

    def under(self, prefix: str) -> "Parts":
        """The tensors whose names begin with the prefix, without any field."""
        return self._within("", {}, prefix)

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
        """A tensor, `stored`.

        Args:
            name: after the prefix.
            shape: a size for each dimension, separated by spaces: a number, a letter for what agrees wherever it
                stands, or * for any.
            within: where its elements lie.
            also: infinities that may be among them.
            dtype: its type; None for `floating`.
            rising: whether no element is less than the one before; whole numbers may not be equal either.
        """
        if name not in self._tensors:
            self.refuse_tensor(name, f"there, of shape ({shape})", "none")
        value = self._tensors.pop(name)
        allowed = [dtype or self.floating or torch.float32, dtype or self.floating or torch.float64]
        if value.dtype not in allowed:
            self.refuse_tensor(name, f"of type {' or '.join(map(str, dict.fromkeys(allowed)))}", value.dtype)
        self._check_shape(name, value, shape)
        impossible = within.outside(value)
        for infinity in also:
            impossible = impossible & (value != infinity)
        if bool(impossible.any()):
            self.refuse_tensor(name, f"{within} throughout", f"an element {value[impossible][0].item():g}")
        if rising and bool((value[1:] - value[:-1] < (0 if value.is_floating_point() else 1)).any()):
            self.refuse_tensor(name, "in rising order", "elements that are not")
        return stored(value)

    def tensor_like(self, name: str, other: Tensor, also: Collection[float] = ()) -> Tensor:
        """A tensor of the shape and type of another."""
        return self.tensor(name, " ".join(map(str, other.shape)), also=also, dtype=other.dtype)

    def refuse(self, name: str, expected: str, got: object) -> NoReturn:
        """Raise a ValueError for a field."""
        self._refuse(self._path + name, expected, repr(got))

    def refuse_tensor(self, name: str, expected: str, got: object) -> NoReturn:
        """Raise a ValueError for a tensor."""
        self._refuse(f"tensor {self._prefix}{name}", expected, got)

    def finish(self) -> None:
        """Raise a ValueError for a field or a tensor that nobody has taken."""
        for name, value in self._fields.items():
            self.refuse(str(name), "absent", value)
        for name, tensor in self._tensors.items():
            self.refuse_tensor(name, "absent", f"one of shape {tuple(tensor.shape)}")
        for inner in self._inner:
            inner.finish()

    def _refuse(self, what: str, expected: str, got: object) -> NoReturn:
        raise ValueError(f"expected {brief(what)} to be {expected}, got {brief(got)} in {self._source}; save it again")

    def _within(self, name: str, fields: object, prefix: str | None) -> "Parts":
        mine = [] if prefix is None else [key for key in self._tensors if key.startswith(prefix)]
        tensors = {key.removeprefix(prefix or ""): self._tensors.pop(key) for key in mine}
        path = f"{self._path}{name}." if name else self._path
        options: dict[str, Any] = {"sizes": self.sizes, "floating": self.floating}
        found = Parts(fields, tensors, self._source, path=path, prefix=self._prefix + (prefix or ""), **options)
        if prefix == "":
            found._tensors = self._tensors = tensors
        self._inner.append(found)
        return found

    def _field(self, name: str) -> Any:
        if name not in self._fields:
            self._refuse(self._path + name, "there", "nothing")
        return self._fields[name]

    def _list(self, name: str, length: int | None = None) -> list[Any]:
        value = self.take(name)
        if not isinstance(value, (list, tuple)) or length not in (None, len(value)):
            self.refuse(name, "a list" if length is None else f"a list of {length}", value)
        return list(value)

    def _text(self, name: str, value: object) -> str:
        return value if isinstance(value, str) else self.refuse(name, "a text", value)

    def _whole(self, name: str, value: object, least: int, most: int = LARGEST) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.refuse(name, f"a whole number from {least} to {most}", value)
        return value

    def _real(self, name: str, value: object, within: Range, also: Collection[float]) -> float:
        if isinstance(value, float) or (type(value) is int and abs(value) <= LARGEST):
            number = float(value)
            if within.holds(number) or any(number == one or (number != number and one != one) for one in also):
                return number
        return self.refuse(name, f"a number, {within}", value)

    def _check_shape(self, name: str, value: Tensor, shape: str) -> None:
        letters, found, sizes = shape.split(), tuple(value.shape), dict(self.sizes)
        fits = len(letters) == len(found)
        for letter, own in zip(letters, found, strict=False):
            size = own if letter == "*" else int(letter) if letter.isdigit() else sizes.setdefault(letter, own)
            fits = fits and size == own
        if not fits:
            known = [f" with {letter} = {self.sizes[letter]}" for letter in self.sizes if letter in letters]
            self.refuse_tensor(name, f"of shape ({', '.join(letters)}){' and'.join(known)}", found)
        self.sizes = sizes


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under names that begin with a prefix, to lie beside others; `Parts` takes them out by it."""
    return {prefix + name: tensor for name, tensor in tensors.items()}
