"""Examples on their way through the exits: what they carry from one to the next, and what they leave behind.

`run`, `run_stream` and the passes over validation data are loops over `step`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from suffice.budget import scores as scoring
from suffice.budget.scores import AnyScore
from suffice.calibration import ensemble as mie
from suffice.calibration.calibrated import Calibrated
from suffice.calibration.ensemble import Running
from suffice.network import State, batch_size, join, placement, select
from suffice.prediction import AnyPrediction, Prediction

PADDING = -1
"""Position of a row that is no example's: it was answered, or is there to fill the batch."""


@dataclass(frozen=True)
class InFlight:
    """Rows between two exits.

    Attributes:
        running: the ensemble's sums of M rows, or None.
        state: of M rows.
        positions: (M,), the example of each row, int64; `PADDING` where there is none.
        coin: (M,), each example's own number in [0, 1), or None where no policy asks it.
        scores: (M, k), at the exits so far, float64.
        streak: label (M,) at the exit before, and how many exits in a row gave it (M,); None before the first, and
            where no score asks for it.
        gaps: whether some rows may be nobody's.
    """

    running: Running | None
    state: State
    positions: Tensor
    coin: Tensor | None
    scores: Tensor
    streak: tuple[Tensor, Tensor] | None = None
    padded: bool = False

    def __len__(self) -> int:
        """M, the number of rows."""
        return len(self.positions)

    @property
    def nest(self) -> State:
        """All that is batch first, the running sums apart."""
        return self.state, self.positions, self.coin, self.scores, self.streak

    def take(self, rows: Tensor) -> "InFlight":
        """The rows `rows` (L,), each as often as it is named."""
        return InFlight(self.running and self.running.take(rows), *select(self.nest, rows))

    def filled(self, rows: Tensor, size: int) -> "InFlight":
        """The rows `rows` (L,), and the first of them again as nobody's until there are `size`."""
        extra = max(0, size - len(rows))
        taken = self.take(torch.cat([rows, rows[:1].expand(extra)]))
        if not extra:
            return taken
        return replace(taken, positions=pad(taken.positions[: len(rows)], (0, extra), value=PADDING), padded=True)


@dataclass(frozen=True)
class Finished:
    """Examples that were answered at one exit: their positions (L,), the exit, the answer, scores (L, k)."""

    positions: Tensor
    exit: int
    prediction: Any
    scores: Tensor

    def take(self, index: Tensor) -> "Finished":
        """The examples `index` (M,)."""
        return Finished(self.positions[index], self.exit, self.prediction.take(index), self.scores[index])


def check_calibrated(found: object) -> None:
    """Raise a TypeError unless it is a calibrated network."""
    if not isinstance(found, Calibrated):
        raise TypeError(
            f"expected a calibrated network, got {type(found).__name__}; make one with "
            "suffice.calibrate(network, train_loader, val_loader)"
        )


def begin(calibrated: Calibrated, x: State, coin: Tensor | None = None, start: int = 0) -> InFlight:
    """A batch x before the first exit; its examples are number `start` and following."""
    size, device = batch_size(x), placement(calibrated.network)[0]
    positions = torch.arange(start, start + size, device=device)
    return InFlight(None, x, positions, coin, torch.empty(size, 0, dtype=torch.float64, device=device))


def step(calibrated: Calibrated, k: int, in_flight: InFlight, score: AnyScore) -> tuple[InFlight, AnyPrediction]:
    """Run stage and exit k: the rows behind it, and what is answered there, with what this score needs of it."""
    state, prediction, running = calibrated.step(k, in_flight.state, in_flight.running, in_flight.positions)
    streak = None
    if score not in scoring.FORGETFUL and isinstance(prediction, Prediction):
        prediction, streak = prediction.counted(in_flight.streak)
    return replace(in_flight, state=state, running=running, streak=streak), prediction


def scored(in_flight: InFlight, prediction: AnyPrediction, score: AnyScore, k: int) -> InFlight:
    """The rows with their scores at exit k."""
    values = scoring.evaluate(score, prediction, in_flight.state, k, in_flight.positions)
    return replace(in_flight, scores=torch.cat([in_flight.scores, values[:, None]], dim=1))


def leave(
    in_flight: InFlight, prediction: AnyPrediction, stops: Tensor, k: int
) -> tuple[list[Finished], InFlight, Tensor]:
    """Who leaves at exit k, if anybody, the rows with those marked as nobody's, and those (L,) that go on.

    Nothing is copied where all rows go on or all leave, as a single example does.
    """
    present = in_flight.positions >= 0 if in_flight.padded else None
    leaving = (stops if present is None else stops & present).nonzero()[:, 0]
    if present is None and len(leaving) in (0, len(in_flight)):
        gone = len(leaving) == len(in_flight)
        finished = [Finished(in_flight.positions, k, prediction, in_flight.scores)] if gone else []
        return finished, in_flight, torch.arange(0 if gone else len(in_flight), device=stops.device)
    staying = (~stops if present is None else ~stops & present).nonzero()[:, 0]
    finished = [Finished(in_flight.positions, k, prediction, in_flight.scores).take(leaving)] if len(leaving) else []
    positions = in_flight.positions.masked_fill(stops, PADDING)
    return finished, replace(in_flight, positions=positions, padded=True), staying


def together(parts: Sequence[InFlight]) -> InFlight:
    """Rows that stand before the same stage made one batch."""
    running = [part.running for part in parts if part.running is not None]
    return InFlight(mie.join(running) if running else None, *join([part.nest for part in parts]))
