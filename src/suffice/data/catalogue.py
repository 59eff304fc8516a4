"""Every data set that is known by name."""

from suffice.data import caltech, cifar, criteo, emnist, imagenet, movielens, tiny_imagenet
from suffice.data.entry import Entry

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
        raise ValueError(f"expected one of {', '.join(ENTRIES)}, got {name!r}")
    return ENTRIES[name]
