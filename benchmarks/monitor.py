"""Losses between a rise of the mean loss and the alarm, for the three kinds of evidence of `suffice_runtime.monitor`.

`make bench-monitor` prints medians over simulated streams of losses of 0 or 1. The promise is a mean loss of 1 %, α is
5 %, and the average run length of the detector is at least 100,000 losses. The column "mean so far" is an alarm by the
evidence of `MeanBounds`, which never starts anew.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from suffice_runtime.monitor import LossAlarm, LossDetector, MeanBounds

MAX_LOSS, ALPHA, RUN_LENGTH = 0.01, 0.05, 100_000
STREAMS, GOOD, HORIZON, BLOCK = 200, 10_000, 20_000, 500
FACTORS = (1.5, 2, 3, 5, 10)


def main() -> None:
    """Run the simulations and print their tables."""
    console = Console()
    table = Table(
        "live loss", "history", "LossAlarm", "the mean so far", "LossDetector", title="losses up to the alarm"
    )
    for history in (0, GOOD):
        states = [state.update(draw(history, 0.005, 0)) for state in starts()]
        for factor in FACTORS:
            row = [median_delay(state, history, factor) for state in states]
            table.add_row(f"{factor * MAX_LOSS:.1%}", f"{history:,} at 0.5 %" if history else "none", *row)
    console.print(table)
    alarms = LossAlarm.start(MAX_LOSS, ALPHA, (2000,)).update(draw(5000, MAX_LOSS, 1, streams=2000)).alarm
    console.print(f"false alarms at a live loss of 1 %: {(alarms > 0).mean():.1%} of 2,000 streams of 5,000 losses")


def starts() -> list[Any]:
    """Return the states before the first loss."""
    return [
        LossAlarm.start(MAX_LOSS, ALPHA, (STREAMS,)),
        MeanBounds.start((STREAMS,)),
        LossDetector.start(MAX_LOSS, RUN_LENGTH, (STREAMS,)),
    ]


def draw(length: int, mean: float, seed: int, streams: int = STREAMS) -> np.ndarray:
    """Return losses (length, streams) of 0 or 1, the same for each kind of evidence."""
    return np.random.default_rng(seed).random((length, streams)) < mean


def median_delay(state: Any, history: int, factor: float) -> str:
    """Return the median number of losses between a rise and the alarm, of streams without a false one before."""
    losses = draw(HORIZON, factor * MAX_LOSS, 2)
    step = 10 if isinstance(state, MeanBounds) else BLOCK
    alarmed = crossed_at(state)
    before, found = alarmed(state), np.zeros(STREAMS, dtype=np.int64)
    for start in range(0, HORIZON, step):
        state = state.update(losses[start : start + step])
        found = np.where(found == 0, alarmed(state), found)
        if np.median(np.where(found > 0, found, HORIZON + history)) <= start + history:
            break
    delays = np.where(found > 0, found - history, math.inf)[before == 0]
    median = float(np.median(delays))
    return f"{median:,.0f}" if median < HORIZON else f"over {HORIZON:,}"


def crossed_at(state: Any) -> Callable[[Any], np.ndarray]:
    """Return a function from a state to the number of losses at its alarm (streams,), or 0."""
    if isinstance(state, MeanBounds):
        return lambda s: np.where(s.log_e_above(MAX_LOSS) >= -math.log(ALPHA), s.count, 0)
    return lambda s: s.alarm


if __name__ == "__main__":
    main()
