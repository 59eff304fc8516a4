"""Snapshot of the work that a scheduler holds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """Numbers of requests and examples in a scheduler at some time.

    Attributes:
        requests: Number of requests that are accepted and not yet answered.
        rows: Number of their examples.
        waiting: Number of examples that wait before each stage.
        running: Number of batches that run.
        auditing: Number of answered examples that wait to be run on.
        dropped: Number of answered examples for which there was no room to be run on, so far.
    """

    requests: int
    rows: int
    waiting: tuple[int, ...]
    running: int
    auditing: int
    dropped: int
