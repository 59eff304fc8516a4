"""Catalog of the known data sets."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from suffice.data.sources import caltech, cifar, clinc150, criteo, emnist, imagenet, movielens, tiny_imagenet
from suffice.data.store import lookup
from suffice.data.store.entry import CatalogEntry
from suffice.data.store.lookup import NotStoredError

ENTRIES: dict[str, CatalogEntry] = {
    entry.name: entry
    for module in (cifar, emnist, movielens, criteo, imagenet, tiny_imagenet, caltech, clinc150)
    for entry in module.ENTRIES
}


def find(name: str) -> CatalogEntry:
    """Return the catalog entry of that name.

    Raises:
        ValueError: If there is none; the message lists the known names.
    """
    if name not in ENTRIES:
        raise ValueError(f"expected one of {', '.join(ENTRIES)}, got {name!r}{suggest_nearest(name, ENTRIES)}")
    return ENTRIES[name]


@contextmanager
def explain_missing() -> Iterator[None]:
    """Context manager that adds to a `NotStoredError` how to obtain the data set.

    Raises:
        NotStoredError: The error of the block, with these instructions.
    """
    try:
        yield
    except NotStoredError as error:
        raise NotStoredError(error.name, obtain_instructions(error.name, lookup.names())) from None


def obtain_instructions(name: str, stored: Iterable[str]) -> str:
    """Return instructions to obtain a data set that is not stored.

    Args:
        name: Name of the data set.
        stored: Names of the stored data sets, for suggestions.
    """
    if name == "digits":
        return "suffice.data.load('digits') makes it from scikit-learn's copy, it is never stored"
    entry = ENTRIES.get(name)
    if entry is None:
        own_data = "import your own data with `suffice data import NAME SOURCE`"
        return f"no data set of that name is known{suggest_nearest(name, [*ENTRIES, *stored, 'digits'])}; {own_data}"
    if entry.downloadable:
        return f"get it with `suffice data fetch {name}`, or from files that you have with `{entry.import_command()}`"
    return f"accept the terms and download its files at {entry.homepage}, then run `{entry.import_command()}`"


def suggest_nearest(name: str, known: Iterable[str]) -> str:
    """Return the known names that are similar to a name, as the end of a message; empty if there are none."""
    near = difflib.get_close_matches(name, list(known), cutoff=0.7)
    return f"; nearest: {', '.join(near)}" if near else ""
