"""Observations of requests in the order of their acceptance, whatever the order in which they become known.

Examples that stop early are answered first, and those that stop at the last exit need no audit. In the order of their
answers, a stream of exits or losses would begin with cheap ones, and what is stated about it would be wrong. So the
observations of a request are released once they are known, together with those of all observed requests before it.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from suffice_runtime.answer import Answer
from suffice_runtime.prediction import AnyPrediction, Regression
from suffice_runtime.scheduling.requests import Audited, Outcome

Floats = NDArray[np.float64]
T = TypeVar("T")


class InOrder(Generic[T]):
    """Observations of requests, each known at some time after the request was accepted."""

    def __init__(self) -> None:
        self._order: deque[int] = deque()
        self._known: dict[int, T | None] = {}

    def __len__(self) -> int:
        """Number of requests that are not released."""
        return len(self._order)

    def enter(self, number: int) -> None:
        """Add a request by the number of its ticket, which is greater than those before it."""
        self._order.append(number)

    def know(self, number: int, observed: T | None) -> None:
        """Add what is observed of a request that was entered; None leaves it out."""
        self._known[number] = observed

    def release(self) -> Iterator[T]:
        """Remove and yield what is known of the first requests, up to one of which nothing is known yet."""
        while self._order and self._order[0] in self._known:
            observed = self._known.pop(self._order.popleft())
            if observed is not None:
                yield observed


@dataclass(frozen=True)
class Exits:
    """Exits of examples that were answered under one policy.

    Attributes:
        generation: Number of the policy.
        exits: Exit (M,) of each example.
        costs: Multiply-adds (M,) of each as a fraction of those of the last exit, for its number of tokens; NaN where
            they are not known.
        epistemic: Epistemic uncertainty (M,) of each in nats; of a regression, the mean of its variance over outputs.
    """

    generation: int
    exits: NDArray[np.int64]
    costs: Floats
    epistemic: Floats

    @classmethod
    def of(cls, generation: int, outcome: Outcome, most: int) -> "Exits | None":
        """Return those of the first examples of a request; None if all of them failed."""
        if outcome.answer is None:
            return None
        answer, first = outcome.answer, (outcome.positions < most).nonzero()[0]
        return cls(generation, answer.exit[first], _costs(answer)[first], epistemic(answer.prediction.take(first)))


@dataclass(frozen=True)
class Losses:
    """Losses of examples that were answered under one policy, and audited.

    Attributes:
        generation: Number of the policy.
        losses: Loss "agreement" (A,) of each example: 1 where the label differs from that of the last exit, else 0.
        examples: Number of examples that the request had.
    """

    generation: int
    losses: Floats
    examples: int


class Auditing:
    """Losses of a request that is audited, as they become known.

    Args:
        generation: Number of its policy.
        examples: Number of its examples.
        last: Number of the last exit, at which nothing is lost.
    """

    def __init__(self, generation: int, examples: int, last: int) -> None:
        self._generation, self._last = generation, last
        self._losses = np.full(examples, np.nan)
        self._answered, self._pending = False, 0  # pending is below 0 if audits came before the outcome

    @property
    def complete(self) -> bool:
        """Whether the losses of all examples are known, up to those that cannot be."""
        return self._answered and not self._pending

    @property
    def losses(self) -> Losses:
        """Known losses, in the order of the examples. Those for which the last exit has no prediction are left out."""
        return Losses(self._generation, self._losses[~np.isnan(self._losses)], len(self._losses))

    @property
    def nothing(self) -> Losses:
        """No losses, of a request that was cancelled."""
        return Losses(self._generation, np.empty(0), len(self._losses))

    def answer(self, outcome: Outcome) -> None:
        """Add the outcome of the request."""
        self._answered = True
        if outcome.answer is not None:
            last = outcome.answer.exit == self._last
            self._losses[outcome.positions[last]] = 0.0
            self._pending += int(np.count_nonzero(~last))

    def audit(self, audited: Audited) -> None:
        """Add examples that were run on to the last exit, or dropped."""
        self._pending -= len(audited.finished.positions)
        if audited.last is not None:
            self._losses[audited.finished.positions] = differs(audited.finished.prediction, audited.last.prediction)


def differs(answered: AnyPrediction, last: AnyPrediction) -> Floats:
    """Return the loss "agreement" (N,) of answers: 1 where a label differs from that of the last exit, else 0."""
    assert not isinstance(answered, Regression)
    assert not isinstance(last, Regression)
    unequal = answered.label != last.label
    return unequal.reshape(len(unequal), -1).any(axis=1).astype(np.float64)


def epistemic(prediction: AnyPrediction) -> Floats:
    """Return the epistemic uncertainty (N,) in nats; of a regression the mean of its variance over the outputs."""
    if isinstance(prediction, Regression):
        return prediction.epistemic_variance.mean(axis=1).astype(np.float64)
    return prediction.epistemic.astype(np.float64)


def _costs(answer: Answer) -> Floats:
    if answer.costs is None or not answer.costs[-1]:
        return np.full(len(answer), np.nan)
    return answer.macs / answer.costs[-1]
