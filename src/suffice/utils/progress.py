"""How long work tells what it is doing."""

from collections.abc import Callable

ProgressCallback = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is (0: not known)."""


def quiet(what: str, done: int, total: int) -> None:
    """Show no progress."""
