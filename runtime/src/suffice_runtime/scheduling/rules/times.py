"""Measured seconds of each stage by the size of its batch.

A run on n rows belongs to the smallest size s ≥ n. Each size holds exponentially weighted means of the numbers of rows
and of the seconds of its runs; the time of any other number of rows is interpolated linearly between these points.
Beyond the last point the time is that of the last, which is optimistic, so that a size that has not been tried gets
tried; before the first it is that of the first.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

WEIGHT = 0.2
"""Weight of a new measurement, from the fifth on; the first ones count equally."""

MEMORY = 1000
"""Runs of a stage after which the time of a size that did not run is forgotten, and the size may be tried again."""

TABLES = 64
"""Number of shapes that each stage has times for; those least recently run are forgotten."""


@dataclass
class _Point:
    """Means of the rows and the seconds of the runs of one size."""

    rows: float = 0.0
    seconds: float = 0.0
    count: int = 0
    run: int = 0

    def add(self, rows: int, seconds: float, run: int) -> None:
        self.count, self.run = self.count + 1, run
        weight = max(WEIGHT, 1 / self.count)
        self.rows += weight * (rows - self.rows)
        self.seconds += weight * (seconds - self.seconds)


@dataclass
class _Table:
    """Points of one stage and shape by size, and the times that were interpolated since the last measurement."""

    points: dict[int, _Point] = field(default_factory=dict)
    runs: int = 0
    known: dict[int, float] = field(default_factory=dict)

    def seconds(self, rows: int) -> float:
        if rows not in self.known:
            self.known[rows] = self._interpolated(rows)
        return self.known[rows]

    def _interpolated(self, rows: int) -> float:
        points = sorted((point.rows, point.seconds) for point in self.points.values())
        if rows <= points[0][0]:
            return points[0][1]
        for (low, before), (high, behind) in pairwise(points):
            if rows <= high:
                return before + (behind - before) * (rows - low) / (high - low)
        return points[-1][1]


class Times:
    """Seconds of each stage, shape and number of rows.

    Args:
        stages: Number of stages.
        sizes: Sizes of batches that are measured apart, rising.
    """

    def __init__(self, stages: int, sizes: Sequence[int]) -> None:
        self._sizes = sizes
        self._tables: list[dict[int, _Table]] = [{} for _ in range(stages)]

    def record(self, stage: int, numbers: int, rows: int, seconds: float) -> None:
        """Add the measurement of one run.

        Args:
            stage: Number of the stage, counted from 0.
            numbers: Count of numbers in a row, which tells shapes of different lengths apart.
            rows: Number of rows that ran, at most the last size.
            seconds: Seconds that they took.

        Raises:
            ValueError: For more rows.
        """
        if rows > self._sizes[-1]:
            raise ValueError(f"expected at most {self._sizes[-1]} rows, got {rows}; give sizes of batches up to it")
        tables = self._tables[stage]
        table = tables.pop(numbers, None) or _Table()
        tables[numbers] = table  # last, as the most recent
        if len(tables) > TABLES:
            del tables[next(iter(tables))]
        table.runs += 1
        table.known.clear()
        size = self._sizes[bisect_left(self._sizes, rows)]
        table.points.setdefault(size, _Point()).add(rows, max(seconds, 0.0), table.runs)
        for old in [size for size, point in table.points.items() if point.run <= table.runs - MEMORY]:
            del table.points[old]

    def seconds(self, stage: int, numbers: int, rows: int) -> float:
        """Return the expected seconds of a run; those of the most similar shape if this one was not run, 0 if none was.

        Args:
            stage: Number of the stage.
            numbers: Count of numbers in a row.
            rows: Number of rows, 1 or more.
        """
        tables = self._tables[stage]
        if not tables:
            return 0.0
        table = tables.get(numbers) or tables[min(tables, key=lambda known: abs(known - numbers))]
        return table.seconds(rows)
