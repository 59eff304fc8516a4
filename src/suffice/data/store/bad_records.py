"""Malformed lines and images of a source: an error, or counted and described while the rest is imported."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_DESCRIBED = 10
"""Maximal number of bad records that are described."""


@dataclass
class BadRecords:
    """Treatment of malformed lines and images, and the record of those that were skipped.

    Attributes:
        skip: Skip and count bad records instead of raising at the first one.
        option: The option that skips them, for the error message.
        count: Number of bad records so far.
        first: Descriptions of the first ten.
    """

    skip: bool = False
    option: str = "`--bad skip` (bad='skip')"
    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, where: str, why: str) -> None:
        """Count one bad record.

        Raises:
            ValueError: Unless bad records are skipped.
        """
        if not self.skip:
            raise ValueError(f"{where}: {why}; leave such records out with {self.option}")
        self.count += 1
        if len(self.first) < _DESCRIBED:
            self.first.append(f"{where}: {why}")

    def add_each(self, rows: Sequence[int], describe: Callable[[int], tuple[str, str]]) -> None:
        """Count one bad record for each row; only rows whose description is stored are described.

        Raises:
            ValueError: Unless bad records are skipped.
        """
        for row in rows[:_DESCRIBED]:
            self.add(*describe(row))
        self.count += len(rows[_DESCRIBED:])
