"""Batches on their way through the exits: the rows in flight between two exits, and those finished at one.

`run`, `run_stream` and the passes over validation data are loops over `step`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from suffice.batches import Batch
from suffice.budget import scores as scoring
from suffice.budget.scores import AnyScore
from suffice.calibration import ensemble as mie
from suffice.calibration.calibrated import Calibrated
from suffice.calibration.ensemble import Running
from suffice.network import State, batch_size, join, placement, select
from suffice.prediction import AnyPrediction, Streak

PADDING = -1
"""Position of a row that holds no example: a finished one that was not removed, or one that fills up the batch."""


@dataclass(frozen=True)
class InFlight:
    """Rows of a batch between two exits.

    Attributes:
        running: Running sums of the ensemble for M rows, or None.
        state: State of M rows.
        positions: Position (M,) of the example in each row, int64; `PADDING` in rows that hold none.
        coin: Number (M,) in [0, 1) of each example, by which a mixed policy assigns it, or None.
        scores: Scores (M, k) at the exits so far, float64.
        streak: Label (M,) at the exit before, and how many exits in a row predicted it (M,); None before the first exit
            and for scores that do not need it.
        padded: Whether some rows may be padding.
    """

    running: Running | None
    state: State
    positions: Tensor
    coin: Tensor | None
    scores: Tensor
    streak: Streak | None = None
    padded: bool = False

    def __len__(self) -> int:
        """Number of rows M."""
        return len(self.positions)

    @property
    def nest(self) -> State:
        """All batch-first fields but the running sums."""
        return self.state, self.positions, self.coin, self.scores, self.streak

    def take(self, rows: Tensor) -> "InFlight":
        """Select the rows `rows` (L,), each as often as it occurs there."""
        return InFlight(self.running and self.running.take(rows), *select(self.nest, rows))

    def padded_to(self, rows: Tensor, size: int) -> "InFlight":
        """Select the rows `rows` (L,), and repeat the first of them as padding up to `size` rows."""
        extra = max(0, size - len(rows))
        selected = self.take(torch.cat([rows, rows[:1].expand(extra)]))
        if not extra:
            return selected
        return replace(selected, positions=pad(selected.positions[: len(rows)], (0, extra), value=PADDING), padded=True)


@dataclass(frozen=True)
class Finished:
    """Examples that stopped at one exit.

    Attributes:
        positions: Positions (L,) of the examples, int64.
        exit: Number of the exit, counted from 0.
        prediction: Prediction of the exit for L examples.
        scores: Scores (L, k) at the exits so far, float64.
        coin: Number (L,) in [0, 1) of each example, or None.
    """

    positions: Tensor
    exit: int
    prediction: Any
    scores: Tensor
    coin: Tensor | None = None

    def take(self, index: Tensor) -> "Finished":
        """Select the examples `index` (M,)."""
        coin = None if self.coin is None else self.coin[index]
        return Finished(self.positions[index], self.exit, self.prediction.take(index), self.scores[index], coin)


def check_calibrated(calibrated: object) -> None:
    """Raise a TypeError unless the argument is a calibrated network."""
    if not isinstance(calibrated, Calibrated):
        raise TypeError(
            f"expected a calibrated network, got {type(calibrated).__name__}; make one with "
            "suffice.calibrate(network, train_loader, val_loader)"
        )


def begin(calibrated: Calibrated, x: State, coin: Tensor | None = None, start: int = 0) -> InFlight:
    """Return the rows of a batch x before the first exit, with positions from `start` on."""
    size, device = batch_size(x), placement(calibrated.network)[0]
    positions = torch.arange(start, start + size, device=device)
    return InFlight(None, x, positions, coin, torch.empty(size, 0, dtype=torch.float64, device=device))


def step(calibrated: Calibrated, k: int, in_flight: InFlight, count_streak: bool) -> tuple[InFlight, AnyPrediction]:
    """Run stage and exit k.

    Args:
        calibrated: Calibrated network.
        k: Number of the stage and its exit, counted from 0.
        in_flight: Rows before stage k.
        count_streak: Whether a score needs the number of exits in a row with the same label.

    Returns:
        The rows behind exit k, and their prediction there.
    """
    state, prediction, running = calibrated.step(k, in_flight.state, in_flight.running, in_flight.positions)
    streak = None
    if count_streak:
        prediction, streak = prediction.count_streak(in_flight.streak)
    return replace(in_flight, state=state, running=running, streak=streak), prediction


def append_scores(in_flight: InFlight, prediction: AnyPrediction, score: AnyScore, k: int) -> InFlight:
    """Return the rows with their scores at exit k appended."""
    values = scoring.evaluate(score, prediction, in_flight.state, k, in_flight.positions)
    return replace(in_flight, scores=torch.cat([in_flight.scores, values[:, None]], dim=1))


@dataclass(frozen=True)
class Visit:
    """One batch at one exit, in a pass in which no example stops early.

    Attributes:
        batch: Batch of N examples.
        exit: Number of the exit, counted from 0.
        prediction: Prediction of the exit for the batch.
        state: State behind the exit's stage.
        scores: Scores (N,) of each score at this exit, float64.
    """

    batch: Batch
    exit: int
    prediction: AnyPrediction
    state: State
    scores: tuple[Tensor, ...]


def visit_exits(calibrated: Calibrated, batches: Iterable[Batch], *scores: AnyScore) -> Iterator[Visit]:
    """Run batches through all exits, and yield every batch at every exit, batch by batch."""
    count_streak = any(map(scoring.needs_streak, scores))
    for batch in batches:
        in_flight = begin(calibrated, batch.inputs, start=batch.start)
        for k in range(len(calibrated.exits)):
            in_flight, prediction = step(calibrated, k, in_flight, count_streak)
            state, positions = in_flight.state, in_flight.positions
            values = tuple(scoring.evaluate(score, prediction, state, k, positions) for score in scores)
            yield Visit(batch, k, prediction, state, values)


def split_at_exit(
    in_flight: InFlight, prediction: AnyPrediction, stops: Tensor, k: int
) -> tuple[list[Finished], InFlight, Tensor]:
    """Split a batch at exit k. Nothing is copied if all rows continue or all stop, as a single example does.

    Args:
        in_flight: M rows behind exit k.
        prediction: Prediction of exit k for the rows.
        stops: Whether the example of each row stops here, (M,) bool.
        k: Number of the exit, counted from 0.

    Returns:
        The finished examples (at most one item), the rows with the finished ones marked as padding, and the indices
        (L,) of the rows that continue.
    """
    present = in_flight.positions >= 0 if in_flight.padded else None
    stopping = (stops if present is None else stops & present).nonzero()[:, 0]
    if present is None and len(stopping) in (0, len(in_flight)):
        all_stop = len(stopping) == len(in_flight)
        return (
            [_finish(in_flight, k, prediction)] if all_stop else [],
            in_flight,
            torch.arange(0 if all_stop else len(in_flight), device=stops.device),
        )
    continuing = (~stops if present is None else ~stops & present).nonzero()[:, 0]
    finished = [_finish(in_flight, k, prediction).take(stopping)] if len(stopping) else []
    positions = in_flight.positions.masked_fill(stops, PADDING)
    return finished, replace(in_flight, positions=positions, padded=True), continuing


def _finish(in_flight: InFlight, k: int, prediction: AnyPrediction) -> Finished:
    """Return all rows as examples that stopped at exit k."""
    return Finished(in_flight.positions, k, prediction, in_flight.scores, in_flight.coin)


def join_rows(parts: Sequence[InFlight]) -> InFlight:
    """Concatenate rows that are in flight before the same stage."""
    running = [part.running for part in parts if part.running is not None]
    return InFlight(mie.join(running) if running else None, *join([part.nest for part in parts]))
