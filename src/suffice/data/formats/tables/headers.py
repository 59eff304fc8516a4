"""Check of the column names of a table: each required name occurs exactly once."""

import difflib
from collections.abc import Sequence

_SHOWN = 20
"""Maximal number of names in a message."""
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def check(names: Sequence[str], required: Sequence[str], where: str) -> None:
    """Check that a file has each required column once.

    Args:
        names: Column names of the file.
        required: Names of the required columns.
        where: Name of the file, for messages.

    Raises:
        ValueError: If a column is missing or occurs twice; the message suggests similar names.
    """
    missing = [name for name in required if name not in names]
    if missing:
        raise ValueError(
            f"expected the columns {_list(required)}, found no {_list(missing)} in {where}, which has "
            f"{_list(names)}{_hint(names, required, missing)}"
        )
    for name in required:
        if names.count(name) > 1:
            raise ValueError(f"expected one column {name!r}, got {names.count(name)} in {where}; rename them")


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:80]) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN:,} more"


def _hint(names: Sequence[str], required: Sequence[str], missing: Sequence[str]) -> str:
    """Return a hint about another delimiter or similar column names; empty if there is none."""
    header = names[0] if len(names) == 1 else ""
    for delimiter, plural in _DELIMITERS.items():
        if set(required) <= {name.strip('"') for name in header.split(delimiter)}:
            return f"; it is delimited by {plural}: set delimiter = {delimiter!r} in the schema"
    near = [name for absent in missing for name in difflib.get_close_matches(absent, names, n=1, cutoff=0.7)]
    near += [name for absent in missing for name in names if name.strip().casefold() == absent.strip().casefold()]
    return f"; nearest: {_list(sorted(set(near)))}" if near else ""
