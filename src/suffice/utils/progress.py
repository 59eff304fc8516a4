"""Progress callbacks of long computations."""

from collections.abc import Callable

ProgressCallback = Callable[[str, int, int], None]
"""Callback `(task, done, total)`: name of the task, finished units and all units (0 if unknown)."""


def quiet(what: str, done: int, total: int) -> None:
    """Ignore all progress reports."""
