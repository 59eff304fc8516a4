"""Every data set that is known by name."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from suffice.data.sources import caltech, cifar, criteo, emnist, imagenet, movielens, tiny_imagenet
from suffice.data.store import lookup
from suffice.data.store.entry import CatalogEntry
from suffice.data.store.lookup import NotStoredError

ENTRIES: dict[str, CatalogEntry] = {
    entry.name: entry
    for module in (cifar, emnist, movielens, criteo, imagenet, tiny_imagenet, caltech)
    for entry in module.ENTRIES
}


def find(name: str) -> CatalogEntry:
    """The entry of that name.

    Raises:
        ValueError: if there is none, listing those that there are.
    """
    if name not in ENTRIES:
        raise ValueError(f"expected one of {', '.join(ENTRIES)}, got {name!r}{suggest_nearest(name, ENTRIES)}")
    return ENTRIES[name]


@contextmanager
def explain_missing() -> Iterator[None]:
    """Add to the error of a data set that is not in the store how to get it.

    Raises:
        NotStoredError: that error, with the advice.
    """
    try:
        yield
    except NotStoredError as error:
        raise NotStoredError(error.name, obtain_instructions(error.name, lookup.names())) from None


def obtain_instructions(name: str, stored: Iterable[str]) -> str:
    """What to do about a set that is not in the store, given the names that are."""
    if name == "digits":
        return "suffice.data.load('digits') makes it of scikit-learn's, it is never stored"
    entry = ENTRIES.get(name)
    if entry is None:
        own = "for data of your own `suffice data import NAME SOURCE`"
        return f"no set of that name is known{suggest_nearest(name, [*ENTRIES, *stored, 'digits'])}; {own}"
    if entry.downloadable:
        return f"get it with `suffice data fetch {name}`, or with its files at hand `{entry.import_command()}`"
    return f"get its files at {entry.homepage}, where its terms are to be accepted, then run `{entry.import_command()}`"


def suggest_nearest(name: str, known: Iterable[str]) -> str:
    """Known names that are like another, to be put behind it in a message."""
    near = difflib.get_close_matches(name, list(known), cutoff=0.7)
    return f"; nearest: {', '.join(near)}" if near else ""
