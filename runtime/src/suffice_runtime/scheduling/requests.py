"""Requests: what a server accepts or refuses, the examples of a request as they finish, and what it is answered."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from suffice_runtime.answer import Answer
from suffice_runtime.policy import Policy
from suffice_runtime.running.walk import Finished, InFlight
from suffice_runtime.sets import Intervals, LabelSets

Positions = NDArray[np.int64]
Flags = NDArray[np.bool_]

Mark = Literal["late", "capped"]
"""Reason for which an example was answered before its policy stopped it."""


class RefusedError(RuntimeError):
    """Refusal of a request by a server that is full, or is closing.

    Attributes:
        retry_after: Seconds after which there should be room; None if the server is closing.
    """

    def __init__(self, message: str, retry_after: float | None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineError(TimeoutError):
    """Deadline that passed before the first exit."""


class ExampleError(RuntimeError):
    """Failure of one example of a request, with the original error as `__cause__`.

    Attributes:
        stage: Number of the stage, counted from 0.
        position: Position of the example in its request.
    """

    def __init__(self, stage: int, position: int, cause: Exception) -> None:
        super().__init__(f"stage {stage} failed for example {position}: {cause}")
        self.stage, self.position = stage, position
        self.__cause__ = cause


@dataclass(frozen=True)
class StageRun:
    """Run of one graph that examples of a request took part in, with times in seconds of the scheduler.

    Attributes:
        stage: Number of the stage, counted from 0.
        examples: Number of the examples of the request.
        batch: Number of all examples of the run.
        waited_since: Time at which the examples came to the stage.
        started: Time at which the run started.
        ended: Time at which it ended.
    """

    stage: int
    examples: int
    batch: int
    waited_since: float
    started: float
    ended: float


@dataclass(frozen=True)
class Ticket:
    """Receipt of an accepted request.

    Attributes:
        number: Number of the request, counted from 0.
        examples: Number of its examples.
    """

    number: int
    examples: int


@dataclass(frozen=True, repr=False)
class Outcome:
    """Answers of the examples of a request, and the errors of those that failed.

    For examples that are late or capped, which their policy did not stop, no guarantee of the policy holds; their
    prediction sets contain everything.

    Attributes:
        ticket: Ticket of the request.
        answer: Answer of the M examples that did not fail, in their order; None if there are none, and for a request
            of no examples an empty one. Its costs are those of the request's own number of tokens.
        positions: Positions (M,) of these examples in the request, int64.
        errors: One error for each of the other examples, in their order.
        late: Whether each of the M examples was answered because of the deadline, by the last exit that it passed,
            (M,) bool.
        capped: Whether each of the M examples was answered because of the cap, (M,) bool.
        policy: Policy of the request.
        seconds: Seconds between the acceptance and the last answer.
        runs: Runs that its examples took part in, in order of their ends, if the request was traced.
    """

    ticket: Ticket
    answer: Answer | None
    positions: Positions
    errors: tuple[ExampleError, ...]
    late: Flags
    capped: Flags
    policy: Policy
    seconds: float
    runs: tuple[StageRun, ...] = ()

    def __repr__(self) -> str:
        """Describe the outcome in one line."""
        marks = f"{np.count_nonzero(self.late)} late, {np.count_nonzero(self.capped)} capped"
        return f"Outcome({self.answer!r}, {len(self.errors)} errors, {marks}, {1000 * self.seconds:.3g} ms)"


@dataclass(frozen=True, repr=False)
class Audited:
    """Examples that were run on to the last exit after they had been answered, or were to be.

    Attributes:
        ticket: Ticket of the request.
        finished: The M examples at the exit of their answer.
        last: The same examples at the last exit; None if they were dropped, for lack of room or after an error.
    """

    ticket: Ticket
    finished: Finished
    last: Finished | None


@dataclass(eq=False, repr=False)
class Request:
    """Request that is not yet answered.

    Attributes:
        ticket: Its ticket.
        policy: Policy that it runs under.
        entered: Time of its acceptance in seconds.
        first_tag: Place of its first example in the fair order; that of the example at position i is `first_tag` + i.
        deadline: Time of its deadline, or +inf.
        cap: Exit at which its examples stop at the latest.
        tokens: Number of tokens of its texts, without the padding of the server, or None.
        unpadded: Its rows before the first graph as they came, if they were padded, else None.
        audit: Whether its examples are run on to the last exit after they are answered.
        runs: Runs that its examples took part in; None if they are not traced.
        closed: Whether it is answered or cancelled.
    """

    ticket: Ticket
    policy: Policy
    entered: float
    first_tag: float
    deadline: float
    cap: int
    tokens: int | None
    unpadded: InFlight | None = None
    audit: bool = False
    runs: list[StageRun] | None = None
    closed: bool = False
    _finished: list[tuple[Finished, Mark | None]] = field(default_factory=list)
    _errors: list[ExampleError] = field(default_factory=list)
    _left: int = 0

    def __post_init__(self) -> None:
        self._left = self.ticket.examples

    @property
    def complete(self) -> bool:
        """Whether all examples have finished or failed."""
        return self._left == 0

    def finish(self, finished: Finished, mark: Mark | None = None) -> None:
        """Add examples that finished, with the reason if it was not their policy."""
        self._finished.append((finished, mark))
        self._left -= len(finished.positions)

    def fail(self, stage: int, position: int, cause: Exception) -> None:
        """Add an example that failed."""
        self._errors.append(ExampleError(stage, position, cause))
        self._left -= 1

    def outcome(self, to_answer: Callable[[list[Finished], int | None, Policy], Answer], now: float) -> Outcome:
        """Return the outcome of a complete request.

        Args:
            to_answer: `Network.answer`.
            now: Present time in seconds.
        """
        errors = tuple(sorted(self._errors, key=lambda error: error.position))
        positions = self._positions()
        answer = None
        if self._finished:
            answer = to_answer([part for part, _ in self._finished], self.tokens, self.policy)
        late, capped = self._marked("late", positions), self._marked("capped", positions)
        if answer is not None and answer.set is not None and (forced := late | capped).any():
            answer = replace(answer, set=_with_everything(answer.set, forced))
        runs = () if self.runs is None else tuple(self.runs)
        seconds = now - self.entered
        return Outcome(self.ticket, answer, positions, errors, late, capped, self.policy, seconds, runs)

    def _positions(self) -> Positions:
        """Return the positions (M,) of the examples that finished, in their order."""
        if len(self._finished) == 1:
            return self._finished[0][0].positions  # which rise
        none = np.empty(0, dtype=np.int64)
        return np.sort(np.concatenate([none, *(part.positions for part, _ in self._finished)]))

    def _marked(self, mark: Mark, positions: Positions) -> Flags:
        """Return which positions (M,) have a mark, (M,) bool."""
        parts = [part.positions for part, found in self._finished if found == mark]
        return np.isin(positions, np.concatenate(parts)) if parts else np.zeros(len(positions), dtype=bool)


def _with_everything(found: LabelSets | Intervals, rows: Flags) -> LabelSets | Intervals:
    """Return sets that contain everything for some rows (M,), which is all that has the coverage there."""
    wide = rows[:, None]
    if isinstance(found, LabelSets):
        return replace(found, members=found.members | wide)
    return replace(found, low=np.where(wide, -np.inf, found.low), high=np.where(wide, np.inf, found.high))
