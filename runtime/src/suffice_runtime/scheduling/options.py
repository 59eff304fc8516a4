"""Options of a scheduler: sizes of batches, the bound on waiting, and limits."""

import math
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Options:
    """Sizes and limits of a scheduler.

    Attributes:
        sizes: Sizes of batches whose times are measured apart, rising. A batch has at most the last of them.
        wait_ms: Milliseconds that an example may be held back in all stages together, for others to join its batch.
        max_rows: Number of examples that may be accepted and not yet answered.
        lengths: Numbers of tokens that texts are padded to, rising. Longer texts are not padded, nor is any text of a
            bundle without a mask; texts of one length run together.
        cap_exit: Exit, counted from 0, at which every example stops at the latest; None for the last one.
        pad_batches: Whether graphs are run on one of `sizes` only (`Batch.padded`), as for execution providers that
            compile a graph for each shape.
        max_audit_rows: Number of answered examples that may wait to be run on to the last exit.

    Raises:
        ValueError: If a number is out of range, or sizes or lengths do not rise.
    """

    sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    wait_ms: float = 10.0
    max_rows: int = 4096
    lengths: tuple[int, ...] = ()
    cap_exit: int | None = None
    pad_batches: bool = False
    max_audit_rows: int = 1024

    def __post_init__(self) -> None:
        for name, values in (("sizes", self.sizes), ("lengths", self.lengths)):
            if any(value < 1 for value in values) or any(first >= second for first, second in pairwise(values)):
                raise ValueError(f"expected {name} of at least 1 that rise, got {values}")
        if not self.sizes:
            raise ValueError("expected at least one size of batches, got none; sizes=(1,) runs every example alone")
        if not (math.isfinite(self.wait_ms) and self.wait_ms >= 0):
            raise ValueError(f"expected wait_ms as a finite number of at least 0, got {self.wait_ms}")
        for name, value, least in (("max_rows", self.max_rows, 1), ("max_audit_rows", self.max_audit_rows, 0)):
            if value < least:
                raise ValueError(f"expected {name} of at least {least}, got {value}")
        if self.cap_exit is not None and self.cap_exit < 0:
            raise ValueError(f"expected cap_exit of at least 0, got {self.cap_exit}")

    @property
    def wait(self) -> float:
        """Bound on waiting in seconds."""
        return self.wait_ms / 1000

    def size_of(self, rows: int) -> int:
        """Return the number of rows that a graph is run on for some rows, at most the greatest size."""
        return next(size for size in self.sizes if size >= rows) if self.pad_batches else rows
