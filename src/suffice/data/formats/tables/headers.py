"""Names of columns: that those which are wanted are there, once each."""

import difflib
from collections.abc import Sequence

_SHOWN = 20
"""Names that a message lists."""
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def check(found: Sequence[str], wanted: Sequence[str], where: str) -> None:
    """Check the names of the columns that a file has.

    Raises:
        ValueError: naming those that are missing or there twice, and what may have been meant.
    """
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ValueError(
            f"expected the columns {_listed(wanted)}, found no {_listed(missing)} in {where}, which has "
            f"{_listed(found)}{_hint(found, wanted, missing)}"
        )
    for name in wanted:
        if found.count(name) > 1:
            raise ValueError(f"expected one column {name!r}, got {found.count(name)} in {where}; rename them")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:80]) for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN:,} more"


def _hint(found: Sequence[str], wanted: Sequence[str], missing: Sequence[str]) -> str:
    """What may have been meant."""
    whole = found[0] if len(found) == 1 else ""
    for delimiter, called in _DELIMITERS.items():
        if set(wanted) <= {name.strip('"') for name in whole.split(delimiter)}:
            return f"; it is delimited by {called}: set delimiter = {delimiter!r} in the schema"
    near = [name for lost in missing for name in difflib.get_close_matches(lost, found, n=1, cutoff=0.7)]
    near += [name for lost in missing for name in found if name.strip().casefold() == lost.strip().casefold()]
    return f"; nearest: {_listed(sorted(set(near)))}" if near else ""
