"""Every data set that is known by name."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from suffice.data.sources import caltech, cifar, criteo, emnist, imagenet, movielens, tiny_imagenet
from suffice.data.store import store
from suffice.data.store.entry import Entry
from suffice.data.store.store import NotStoredError

ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for module in (cifar, emnist, movielens, criteo, imagenet, tiny_imagenet, caltech)
    for entry in module.ENTRIES
}


def find(name: str) -> Entry:
    """The entry of that name.

    Raises:
        ValueError: if there is none, listing those that there are.
    """
    if name not in ENTRIES:
        raise ValueError(f"expected one of {', '.join(ENTRIES)}, got {name!r}{nearest(name, ENTRIES)}")
    return ENTRIES[name]


@contextmanager
def advised() -> Iterator[None]:
    """Add to the error of a data set that is not in the store how to get it.

    Raises:
        NotStoredError: that error, with the advice.
    """
    try:
        yield
    except NotStoredError as error:
        raise NotStoredError(error.name, how_to_get(error.name, store.names())) from None


def how_to_get(name: str, stored: Iterable[str]) -> str:
    """What to do about a set that is not in the store, given the names that are."""
    if name == "digits":
        return "suffice.data.load('digits') makes it of scikit-learn's, it is never stored"
    entry = ENTRIES.get(name)
    if entry is None:
        own = "for data of your own `suffice data import NAME SOURCE`"
        return f"no set of that name is known{nearest(name, [*ENTRIES, *stored, 'digits'])}; {own}"
    if entry.free:
        return f"get it with `suffice data fetch {name}`, or with its files at hand `{entry.by_hand()}`"
    return f"get its files at {entry.home}, where its terms are to be accepted, then run `{entry.by_hand()}`"


def nearest(name: str, known: Iterable[str]) -> str:
    """Known names that are like another, to be put behind it in a message."""
    near = difflib.get_close_matches(name, list(known), cutoff=0.7)
    return f"; nearest: {', '.join(near)}" if near else ""
