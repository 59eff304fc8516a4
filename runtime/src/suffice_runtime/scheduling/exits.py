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
        behind: Rows of the examples that go on, and their index (L,) in the part, None for all; None if there are none.
        errors: Positions of the examples that failed, each with its error.
    """

    stopped: Finished | None
    capped: Finished | None
    behind: tuple[InFlight, Index | None] | None
    errors: list[tuple[int, Exception]]


class Outputs:
    """Outputs of a graph for a batch, with what is computed once for all its parts.

    Args:
        exit_: Number of the exit, counted from 0.
        result: Outputs of the graph.
        rows: Number of rows that count.

    Attributes:
        exit: Number of the exit.
        result: Outputs of the graph.
        values: Scores (N,) of the policy; None at the last exit.
        finite: Whether all scores and predictions are finite.
        signature: Shapes of one row before the next graph, as of `InFlight`.
    """

    def __init__(self, exit_: int, result: Result, rows: int) -> None:
        self.exit, self.result = exit_, result
        self.values: Array | None = None if result.scores is None else result.scores[:rows]
        self.finite = bool(np.isfinite(result.prediction.soundness[:rows]).all())
        if self.values is not None:
            self.finite = self.finite and bool(np.isfinite(self.values).all())
        self.signature = tuple(array.shape[1:] for array in result.carried)
        self._stops: dict[int, NDArray[np.bool_]] = {}

    def stops(self, part: Part, start: int) -> NDArray[np.bool_]:
        """Return whether the policy of a part, whose first row is `start`, stops each of its examples, (M,) bool."""
        assert self.values is not None
        policy, rows = part.request.policy, slice(start, start + len(part))
        if policy.alternative is not None:
            return policy.stops(self.exit, self.values[rows], part.rows.coin)
        if id(policy) not in self._stops:
            self._stops[id(policy)] = policy.stops(self.exit, self.values)
        return self._stops[id(policy)][rows]


@dataclass(frozen=True)
class Reached:
    """Part of a batch with its share of the outputs of a graph.

    Attributes:
        part: The M examples.
        outputs: Outputs for the whole batch.
        start: Row of the first of the examples in it.
    """

    part: Part
    outputs: Outputs
    start: int

    @property
    def exit(self) -> int:
        """Number of the exit."""
        return self.outputs.exit

    @property
    def last(self) -> bool:
        """Whether it is the last exit."""
        return self.outputs.values is None

    def split(self) -> Split:
        """Split the examples by their policy and cap; whatever is not finite becomes an error of its example."""
        if not self.outputs.finite:
            return self._split_unsound()
        if self.last:
            return Split(self.finished(), None, None, [])
        own = self.outputs.stops(self.part, self.start)
        count = int(np.count_nonzero(own))
        if count == len(own):
            return Split(self.finished(), None, None, [])
        stopped = self.finished(own.nonzero()[0]) if count else None
        others = (~own).nonzero()[0] if count else None
        if self.part.request.cap <= self.exit:
            return Split(stopped, self.finished(others), None, [])
        return Split(stopped, None, (self.carried(others), others), [])

    def carried(self, index: Index | None = None) -> InFlight:
        """Return rows (L,) of the examples before the next graph; those of all by default."""
        rows, at = self.part.rows, self._at(index)
        return InFlight(
            [_copied(array, at) for array in self.outputs.result.carried],
            rows.positions if index is None else rows.positions[index],
            rows.coin if rows.coin is None or index is None else rows.coin[index],
            self._scores(index),
        )

    def finished(self, index: Index | None = None) -> Finished:
        """Return some of the examples (L,) with the prediction of this exit; all by default."""
        rows, at, prediction = self.part.rows, self._at(index), self.outputs.result.prediction
        return Finished(
            rows.positions if index is None else rows.positions[index],
            self.exit,
            type(prediction)(*[_copied(getattr(prediction, name), at) for name in prediction.names()]),
            self._scores(index),
            rows.coin if rows.coin is None or index is None else rows.coin[index],
        )

    def _split_unsound(self) -> Split:
        """Split the examples of a batch in which something is not finite."""
        everything = np.arange(len(self.part))
        values, errors = self._values(), list[tuple[int, Exception]]()
        if values is None:
            return Split(self._finished(everything, errors), None, None, errors)
        sound = np.isfinite(values)
        self._fail("scores", (~sound).nonzero()[0], errors)
        request = self.part.request
        own = sound & request.policy.stops(self.exit, values, self.part.rows.coin)
        others = sound & ~own
        stopped, capped = self._finished(own.nonzero()[0], errors), None
        behind: tuple[InFlight, Index | None] | None = None
        if request.cap <= self.exit:
            capped = self._finished(others.nonzero()[0], errors)
        elif others.any():
            index = others.nonzero()[0]
            behind = self.carried(index), index
        return Split(stopped, capped, behind, errors)

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

    def _at(self, index: Index | None) -> slice | Index:
        """Return the rows of some examples in the batch."""
        return slice(self.start, self.start + len(self.part)) if index is None else self.start + index

    def _values(self) -> Array | None:
        values = self.outputs.values
        return None if values is None else values[self.start : self.start + len(self.part)]

    def _scores(self, index: Index | None) -> tuple[Array, ...]:
        before, values = self.part.rows.scores, self.outputs.values
        if index is not None:
            before = tuple(column[index] for column in before)
        return before if values is None else (*before, _copied(values, self._at(index)))


def _copied(array: Array, rows: slice | Index) -> Array:
    """Return some rows, which do not keep the whole array in memory."""
    found: Array = array[rows]
    return found.copy() if isinstance(rows, slice) else found


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
