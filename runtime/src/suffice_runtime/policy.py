"""Policies: a threshold per exit that decides where an example stops. The counterpart of `suffice.Policy`."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from suffice_runtime.bundle.entries import Entries
from suffice_runtime.sets import SetRule

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Promise:
    """Guarantee on the loss of a policy, made by `suffice.control_risk`; see there for its conditions.

    Attributes:
        loss: "accuracy", "brier" or "agreement".
        max_loss: Bound on the mean loss.
        confidence: Probability with which the bound holds, or None for a bound in expectation.
    """

    loss: str
    max_loss: float
    confidence: float | None

    @classmethod
    def from_entries(cls, entries: Entries) -> "Promise":
        """Read the guarantee of a manifest."""
        confidence = None if entries.none("confidence") else entries.number("confidence", 0, 1)
        loss = entries.choice("loss", ("accuracy", "brier", "agreement"))
        return cls(loss, entries.number("max_loss", 0), confidence)


@dataclass(frozen=True, repr=False)
class Policy:
    """Rule by which an example stops at the first exit whose score reaches its threshold, or at the last exit.

    Attributes:
        thresholds: Thresholds (K − 1,), float64, on the scale of the score ("confidence": log-odds). Everything stops
            at −inf, nothing at +inf.
        score: Name of the score that the graphs compute, higher meaning more certain.
        budget: Requested mean cost per example; NaN if a loss was bounded instead.
        expected: Mean cost per example on the validation data.
        shares: Fraction (K,) of the validation data that stops at each exit, float64.
        unit: Unit of budget and expected: "macs", multiply-adds, or "ms", milliseconds.
        alternative: Second thresholds (K − 1,), used for examples with a coin (`coin.hash_to_unit`) below `portion`;
            None if the policy is not mixed.
        portion: Fraction of the examples that `alternative` is used for.
        promise: Guarantee on the loss, or None.
        sets: Rule for the prediction sets of the answers, or None.
        made_for: Hash of the calibrated network that it was made for, or None if it is not known.
    """

    thresholds: Floats
    score: str
    budget: float
    expected: float
    shares: Floats
    unit: str = "macs"
    alternative: Floats | None = None
    portion: float = 0.0
    promise: Promise | None = None
    sets: SetRule | None = None
    made_for: str | None = None

    def __repr__(self) -> str:
        """Describe the policy in one line."""
        goal = f"budget {self.budget:,.6g} {self.unit}" if self.promise is None else repr(self.promise)
        sets = "" if self.sets is None else f", sets {self.sets.method!r} with coverage {self.sets.coverage:g}"
        return f"Policy({self.score}, {goal}, expected {self.expected:,.6g} {self.unit}{sets})"

    @classmethod
    def from_entries(cls, entries: Entries, exits: int) -> "Policy":
        """Read the policy of a manifest, for K exits."""
        promise = None if entries.none("promise") else Promise.from_entries(entries.inner("promise"))
        unbounded = entries.any("budget") in (None, "nan")
        if unbounded != (promise is not None):
            raise entries.refuse("budget", "as null where there is a promise, and nowhere else", entries.any("budget"))
        mixed = not entries.none("alternative")
        portion = entries.number("portion", 0, 1)
        if portion and not mixed:
            raise entries.refuse("alternative", f"as thresholds for the portion {portion:g}", None)
        return cls(
            thresholds=entries.numbers("thresholds", exits - 1),
            score=entries.text("score"),
            budget=math.nan if unbounded else entries.number("budget", 0),
            expected=entries.number("expected", 0),
            shares=_read_shares(entries, exits),
            unit=entries.choice("unit", ("macs", "ms")),
            alternative=entries.numbers("alternative", exits - 1) if mixed else None,
            portion=portion,
            promise=promise,
            sets=None if entries.none("sets") else SetRule.from_entries(entries.inner("sets"), exits),
        )

    @property
    def needs_coin(self) -> bool:
        """True if the answer to an example depends on its coin."""
        return self.alternative is not None or (self.sets is not None and self.sets.randomized)

    def stops(self, k: int, values: Floats, coin: Floats | None = None) -> NDArray[np.bool_]:
        """Return whether each example stops at exit k, (N,) bool.

        Args:
            k: Number of the exit, counted from 0.
            values: Scores (N,) at exit k, float64.
            coin: Number (N,) in [0, 1) of each example, needed if the policy is mixed.
        """
        stops: NDArray[np.bool_] = values >= self.thresholds[k]
        if self.alternative is None or coin is None:
            return stops
        return np.where(coin < self.portion, values >= self.alternative[k], stops)

    def check_replaces(self, other: "Policy") -> None:
        """Raise an error unless this policy can be used in place of another one of the same bundle.

        Raises:
            ValueError: For another score, which the graphs do not compute, another number of exits, or a policy that
                was made for another network.
        """
        if self.made_for is not None and other.made_for is not None and self.made_for != other.made_for:
            raise ValueError(
                f"expected a policy made for this network, {other.made_for[:12]}…, got one for {self.made_for[:12]}…, "
                "whose scores differ; allocate for this network, and export it"
            )
        if self.score != other.score:
            raise ValueError(f"expected a policy of the score {other.score!r} of the graphs, got {self.score!r}")
        if len(self.thresholds) != len(other.thresholds):
            raise ValueError(f"expected {len(other.thresholds)} thresholds, got {len(self.thresholds)}")


def _read_shares(entries: Entries, exits: int) -> Floats:
    """Return the shares (K,) of a manifest, which sum to 1 up to the rounding of their type."""
    shares = entries.numbers("shares", exits)
    if not ((shares >= 0).all() and abs(shares.sum() - 1) <= exits * np.finfo(np.float32).eps):
        raise entries.refuse("shares", "as shares of at least 0 with a sum of 1", shares.tolist())
    return shares
