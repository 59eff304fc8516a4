"""Typed reading of a JSON object, so that a wrong entry is refused by its name before anything computes with it."""

import hashlib
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 64 << 20
"""Largest manifest that is read, in bytes."""

_INFINITIES = {"inf": math.inf, "-inf": -math.inf}


def printable(value: object, most: int = 80) -> str:
    """Return the text of a value on one line, cut, with an escape for each character that is not printable."""
    text = str(value)
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[: most + 1])
    return text if len(text) <= most else f"{text[:most]}…"


def _shown(value: object) -> str:
    """Return a value as an error message shows it."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "a JSON object" if isinstance(value, dict) else printable(repr(value))


def _is_number(value: object) -> bool:
    """Return whether a value is a number that float64 can hold, infinities and NaN included."""
    if isinstance(value, float):
        return True
    return type(value) is int and abs(value) <= sys.float_info.max  # JSON has integers of any size


class Entries:
    """Entries of one JSON object, each read with its expected type.

    Args:
        values: Decoded JSON object.
        where: Place of the object in messages, such as "manifest.json: policy".
        remedy: What to do about a wrong entry, the end of messages.
    """

    def __init__(self, values: object, where: str, remedy: str = "export the bundle again") -> None:
        if not isinstance(values, dict):
            raise ValueError(f"expected a JSON object at {where}, got {_shown(values)}")
        self._values, self._where, self._remedy = values, where, remedy

    @classmethod
    def from_file(cls, file: Path) -> "Entries":
        """Read a JSON file.

        Raises:
            FileNotFoundError: If the file is missing.
            ValueError: If it is too large or holds no JSON object.
        """
        with file.open("rb") as stream:
            payload = stream.read(MAX_BYTES + 1)
        if len(payload) > MAX_BYTES:
            raise ValueError(f"expected at most {MAX_BYTES:,} bytes in {printable(file, 200)}, got more")
        try:
            values = json.loads(payload)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"expected JSON in {printable(file, 200)}, got something else: {error}") from error
        return cls(values, file.name)

    def check_digest(self, name: str) -> None:
        """Raise a ValueError if an entry holds the SHA-256 of all others and it is another one.

        The digest is that of the JSON with sorted keys. A manifest without it is not checked.
        """
        stated = self._values.get(name)
        others = {key: value for key, value in self._values.items() if key != name}
        if stated is not None and stated != hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest():
            raise ValueError(f"expected {self._where} as it was written, got one that was changed; export again")

    def refuse(self, name: str, expected: str, got: object) -> ValueError:
        """Return the error for an entry that is not as expected."""
        return ValueError(f"expected {name} {expected} in {self._where}, got {_shown(got)}; {self._remedy}")

    def none(self, name: str) -> bool:
        """Return whether an entry is null; it must be there."""
        return self.any(name) is None

    def any(self, name: str) -> Any:
        """Return an entry of any type.

        Raises:
            ValueError: If it is missing.
        """
        if name not in self._values:
            raise ValueError(f"expected an entry {name!r} in {self._where}, found none; {self._remedy}")
        return self._values[name]

    def optional(self, name: str) -> Any:
        """Return an entry of any type, or None if it is missing."""
        return self._values.get(name)

    def text(self, name: str) -> str:
        """Return an entry that is a string."""
        value = self.any(name)
        if not isinstance(value, str):
            raise self.refuse(name, "as a string", value)
        return value

    def flag(self, name: str) -> bool:
        """Return an entry that is true or false."""
        value = self.any(name)
        if not isinstance(value, bool):
            raise self.refuse(name, "as true or false", value)
        return value

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """Return an entry that is one of some strings."""
        value = self.any(name)
        if not isinstance(value, str) or value not in choices:
            raise self.refuse(name, f"as one of {list(choices)}", value)
        return value

    def whole(self, name: str, least: int = 0) -> int:
        """Return an entry that is a whole number of at least `least`."""
        value = self.any(name)
        if type(value) is not int or not least <= value < 1 << 62:
            raise self.refuse(name, f"as a whole number of at least {least}", value)
        return value

    def number(self, name: str, low: float = -math.inf, high: float = math.inf) -> float:
        """Return an entry that is a finite number in [low, high]."""
        value = self.any(name)
        if not _is_number(value) or not math.isfinite(value) or not low <= value <= high:
            raise self.refuse(name, f"as a number from {low:g} to {high:g}", value)
        return float(value)

    def items(self, name: str, length: int | None = None) -> list[Any]:
        """Return an entry that is a list, of some length."""
        value = self.any(name)
        if not isinstance(value, list) or (length is not None and len(value) != length):
            raise self.refuse(name, "as a list" if length is None else f"as a list of {length}", value)
        return value

    def texts(self, name: str, length: int | None = None) -> tuple[str, ...]:
        """Return an entry that is a list of strings."""
        values = self.items(name, length)
        if not all(isinstance(value, str) for value in values):
            raise self.refuse(name, "as a list of strings", values)
        return tuple(values)

    def wholes(self, name: str, length: int | None = None) -> tuple[int, ...]:
        """Return an entry that is a list of whole numbers of at least 0."""
        return self._wholes(name, self.items(name, length))

    def whole_rows(self, name: str, rows: int, length: int) -> tuple[tuple[int, ...], ...]:
        """Return an entry that is a list of `rows` lists of `length` whole numbers of at least 0."""
        found = self.items(name, rows)
        if not all(isinstance(row, list) and len(row) == length for row in found):
            raise self.refuse(name, f"as {rows} lists of {length} whole numbers", found)
        return tuple(self._wholes(name, row) for row in found)

    def numbers(self, name: str, length: int) -> NDArray[np.float64]:
        """Return an entry that is a list of numbers, with "inf" and "-inf" for the infinities, float64."""
        items = self.items(name, length)
        values: list[Any] = [_INFINITIES.get(value, value) if isinstance(value, str) else value for value in items]
        if not all(_is_number(value) and not math.isnan(value) for value in values):
            raise self.refuse(name, "as numbers, 'inf' or '-inf'", values)
        return np.array(values, dtype=np.float64)

    def mapping(self, name: str) -> dict[str, Any]:
        """Return an entry that is a JSON object, with values of any type."""
        value = self.any(name)
        if not isinstance(value, dict):
            raise self.refuse(name, "as a JSON object", value)
        return value

    def inner(self, name: str) -> "Entries":
        """Return an entry that is a JSON object."""
        return Entries(self.any(name), f"{self._where}: {name}", self._remedy)

    def inners(self, name: str, length: int | None = None) -> list["Entries"]:
        """Return an entry that is a list of JSON objects."""
        return [
            Entries(value, f"{self._where}: {name}[{i}]", self._remedy)
            for i, value in enumerate(self.items(name, length))
        ]

    def _wholes(self, name: str, values: list[Any]) -> tuple[int, ...]:
        if not all(type(value) is int and 0 <= value < 1 << 62 for value in values):
            raise self.refuse(name, "as whole numbers of at least 0", values)
        return tuple(values)
