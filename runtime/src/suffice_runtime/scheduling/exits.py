"""Examples of one request at an exit: those that stop, those that go on, and those that failed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from suffice_runtime.bundle.sessions import Result
from suffice_runtime.running import inputs, walk
from suffice_runtime.running.walk import Array, Finished, InFlight
from suffice_runtime.scheduling.pools import Part

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Examples of a part behind one exit.

    Attributes:
        stopped: Examples that their policy stopped, or None if there are none.
        capped: Examples that the cap stopped, or None.
        behind: Rows of the examples that go on, and their index (L,) in the part; None if there are none.
        errors: Positions of the examples that failed, each with its error.
    """

    stopped: Finished | None
    capped: Finished | None
    behind: tuple[InFlight, Index] | None
    errors: list[tuple[int, Exception]]


@dataclass(frozen=True)
class Reached:
    """Part of a batch with its share of the outputs of a graph.

    Attributes:
        part: The M examples.
        exit: Number of the exit, counted from 0.
        result: Outputs for the whole batch.
        start: Row of the first of the examples in it.
    """

    part: Part
    exit: int
    result: Result
    start: int

    def split(self) -> Split:
        """Split the examples by their policy and cap; whatever is not finite becomes an error of its example."""
        everything = np.arange(len(self.part))
        values, errors = self._values(), list[tuple[int, Exception]]()
        if values is None:
            return Split(self._finished(everything, errors), None, None, errors)
        sound = np.isfinite(values)
        self._fail("scores", (~sound).nonzero()[0], errors)
        request = self.part.request
        own = sound & request.policy.stops(self.exit, values, self.part.rows.coin)
        others = sound & ~own
        stopped, capped, behind = self._finished(own.nonzero()[0], errors), None, None
        if request.cap <= self.exit:
            capped = self._finished(others.nonzero()[0], errors)
        elif others.any():
            index = others.nonzero()[0]
            behind = self.carried(index), index
        return Split(stopped, capped, behind, errors)

    def carried(self, index: Index) -> InFlight:
        """Return rows (L,) of the examples before the next graph."""
        rows = self.part.rows
        return InFlight(
            [array[self.start + index] for array in self.result.carried],
            rows.positions[index],
            None if rows.coin is None else rows.coin[index],
            self._scores(index),
        )

    def finished(self, index: Index) -> Finished:
        """Return some of the examples (L,) with the prediction of this exit."""
        coin = self.part.rows.coin
        prediction = self.result.prediction.take(self.start + index)
        positions = self.part.rows.positions[index]
        return Finished(positions, self.exit, prediction, self._scores(index), None if coin is None else coin[index])

    def _finished(self, index: Index, errors: list[tuple[int, Exception]]) -> Finished | None:
        """Return the examples (L,) whose prediction is finite, or None if there are none; add errors of the others."""
        if not len(index):
            return None
        finished = self.finished(index)
        sound = np.isfinite(finished.prediction.soundness)
        if sound.all():
            return finished
        self._fail("predictions", index[~sound], errors)
        return finished.take(sound.nonzero()[0]) if sound.any() else None

    def _fail(self, what: str, index: Index, errors: list[tuple[int, Exception]]) -> None:
        """Add the errors of examples (L,) whose scores or predictions are not finite."""
        for position in self.part.rows.positions[index]:
            one = np.array([position])
            errors.append((int(position), inputs.not_finite(f"the {what} of exit {self.exit}", one >= 0, one)))

    def _values(self) -> Array | None:
        scores = self.result.scores
        return None if scores is None else scores[self.start : self.start + len(self.part)]

    def _scores(self, index: Index) -> tuple[Array, ...]:
        values = self._values()
        before = tuple(column[index] for column in self.part.rows.scores)
        return before if values is None else (*before, values[index])


def check_late(finished: Finished) -> list[tuple[int, Exception]]:
    """Return an error for each example whose prediction at its last exit is not finite."""
    errors = list[tuple[int, Exception]]()
    for i in (~np.isfinite(finished.prediction.soundness)).nonzero()[0]:
        one = finished.take(np.array([i]))
        try:
            walk.check_sound(one.prediction, one.exit, one.positions)
        except ValueError as error:
            errors.append((int(one.positions[0]), error))
    return errors
