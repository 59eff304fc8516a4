"""Batches on their way through the exits: the rows in flight between two graphs, and those finished at one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suffice_runtime.answer import Answer
from suffice_runtime.bundle.sessions import Graph
from suffice_runtime.policy import Policy
from suffice_runtime.prediction import AnyPrediction, concatenate
from suffice_runtime.running import inputs

Array = NDArray[Any]
Floats = NDArray[np.float64]
Positions = NDArray[np.int64]


@dataclass(frozen=True)
class InFlight:
    """Rows of a batch before one graph.

    Attributes:
        carried: Arrays (M, …) that the graph takes, in its order.
        positions: Position (M,) of the example in each row, int64.
        coin: Number (M,) in [0, 1) of each example, by which a mixed policy assigns it, or None.
        scores: Scores (M,) at each exit so far, float64.
    """

    carried: Sequence[Array]
    positions: Positions
    coin: Floats | None
    scores: tuple[Floats, ...] = ()

    def __len__(self) -> int:
        """Number of rows M."""
        return len(self.positions)

    def take(self, rows: Array) -> "InFlight":
        """Select the rows `rows` (L,)."""
        return InFlight(
            [array[rows] for array in self.carried],
            self.positions[rows],
            None if self.coin is None else self.coin[rows],
            tuple(column[rows] for column in self.scores),
        )

    @property
    def signature(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of one row; only rows with equal ones can run together."""
        return tuple(array.shape[1:] for array in self.carried)


@dataclass(frozen=True)
class Finished:
    """Examples that stopped at one exit.

    Attributes:
        positions: Positions (L,) of the examples, int64.
        exit: Number of the exit, counted from 0.
        prediction: Prediction of the exit for L examples.
        scores: Scores (L,) at each exit so far, float64.
        coin: Number (L,) in [0, 1) of each example, or None.
    """

    positions: Positions
    exit: int
    prediction: AnyPrediction
    scores: tuple[Floats, ...]
    coin: Floats | None = None

    def take(self, index: Array) -> "Finished":
        """Select the examples `index` (M,)."""
        coin = None if self.coin is None else self.coin[index]
        scores = tuple(column[index] for column in self.scores)
        return Finished(self.positions[index], self.exit, self.prediction.take(index), scores, coin)


def join(parts: Sequence[InFlight]) -> InFlight:
    """Concatenate rows in flight before the same graph, with equal signatures."""
    if len(parts) == 1:
        return parts[0]
    coins = [part.coin for part in parts if part.coin is not None]
    return InFlight(
        [np.concatenate(column) for column in zip(*(part.carried for part in parts), strict=True)],
        np.concatenate([part.positions for part in parts]),
        np.concatenate(coins) if coins else None,
        tuple(np.concatenate(column) for column in zip(*(part.scores for part in parts), strict=True)),
    )


def advance(graph: Graph, policy: Policy, k: int, rows: InFlight) -> tuple[Finished | None, InFlight | None]:
    """Run graph k on M ≥ 1 rows and split them at its exit. Nothing is copied if all rows continue or all stop.

    Returns:
        The examples that stop at exit k, and the rows before the next graph; None where there are none.

    Raises:
        ValueError: If a score, or a prediction of those that stop, is not finite; the message names the position.
    """
    prediction, values, carried = graph(rows.carried)
    if values is None:
        check_sound(prediction, k, rows.positions)
        return Finished(rows.positions, k, prediction, rows.scores, rows.coin), None
    _check_finite(values, "scores", k, rows.positions)
    stops = policy.stops(k, values, rows.coin)
    scores, count = (*rows.scores, values), np.count_nonzero(stops)
    if not count:
        return None, InFlight(carried, rows.positions, rows.coin, scores)
    finished = Finished(rows.positions, k, prediction, scores, rows.coin)
    behind = None
    if count < len(rows):
        finished = finished.take(stops.nonzero()[0])
        behind = InFlight(carried, rows.positions, rows.coin, scores).take((~stops).nonzero()[0])
    check_sound(finished.prediction, k, finished.positions)
    return finished, behind


def check_sound(prediction: AnyPrediction, k: int, positions: Positions) -> None:
    """Raise a ValueError that names the first example whose prediction at exit k is not finite."""
    _check_finite(prediction.soundness, "predictions", k, positions)


def _check_finite(values: Floats, what: str, k: int, positions: Positions) -> None:
    """Raise a ValueError that names the first row of values (M,) of exit k that is not finite."""
    if len(values) == 1 and math.isfinite(values.item()):  # the fastest way for a single example
        return
    finite = np.isfinite(values)
    if not finite.all():
        raise inputs.not_finite(f"the {what} of exit {k}", ~finite, positions)


def in_order(finished: Sequence[Finished], exits: int, costs: Sequence[int] | None, policy: Policy) -> Answer:
    """Put the examples finished at each exit into the order of their positions.

    Args:
        finished: Finished examples, at least one item, in any order.
        exits: Number K of exits.
        costs: Cumulative multiply-adds (K) of an example of this shape, or None.
        policy: Policy with the rule for the prediction sets.
    """
    total, start = sum(len(part.positions) for part in finished), 0
    exit_index, scores = np.empty(total, dtype=np.int64), np.empty((total, exits - 1))
    scores.fill(np.nan)
    for part in finished:
        end = start + len(part.positions)
        exit_index[start:end] = part.exit
        for k, column in enumerate(part.scores):
            scores[start:end, k] = column
        start = end
    coins = [part.coin for part in finished if part.coin is not None]
    coin, prediction = np.concatenate(coins) if coins else None, finished[0].prediction
    if len(finished) > 1:  # examples that finish together are in order already
        order = np.concatenate([part.positions for part in finished]).argsort()
        prediction = concatenate([part.prediction for part in finished]).take(order)
        exit_index, scores, coin = exit_index[order], scores[order], None if coin is None else coin[order]
    sets = None if policy.sets is None else policy.sets.sets(prediction, exit_index, coin)
    return Answer(prediction, exit_index, costs, scores, sets)
