"""Policies: a score and a threshold per exit that decide where an example stops."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from suffice.budget import scores as scoring
from suffice.budget.exit_variation import VariationScore
from suffice.budget.scores import AnyScore
from suffice.budget.sets import SetRule, check_method
from suffice.calibration.calibrated import Calibrated
from suffice.cost import Profile
from suffice.storage.parts import INSIDE, POSITIVE, SHARE, Parts, prefixed
from suffice.storage.serializable import Serializable


@dataclass(frozen=True)
class Promise:
    """Guarantee on the loss of a policy, made by `control_risk`; see there for its conditions.

    Attributes:
        loss: "accuracy", "brier" or "agreement".
        max_loss: Bound on the mean loss.
        confidence: Probability with which the bound holds, or None for a bound in expectation.
    """

    loss: str
    max_loss: float
    confidence: float | None

    @classmethod
    def from_parts(cls, parts: Parts) -> "Promise":
        """Restore a guarantee from its fields in a manifest."""
        confidence = None if parts.none("confidence") else parts.number("confidence", INSIDE)
        return cls(
            parts.choice("loss", ("accuracy", "brier", "agreement")), parts.number("max_loss", INSIDE), confidence
        )


@dataclass(frozen=True, repr=False)
class Policy(Serializable):
    """Rule by which an example stops at the first exit whose score reaches its threshold, or at the last exit.

    Attributes:
        thresholds: Thresholds (K − 1,), float64, on the scale of the score ("confidence": log-odds). Everything stops
            at −inf, nothing at +inf.
        score: Name, function `(prediction, state) -> (N,)` with higher meaning more certain, or `VariationScore`.
        budget: Requested mean cost per example; NaN if a loss was bounded instead.
        expected: Mean cost per example on the validation data.
        shares: Fraction (K,) of the validation data that stops at each exit.
        made_for: Digest of the calibrated network that the thresholds were chosen for.
        unit: Unit of budget and expected: "macs", multiply-adds, or "ms", milliseconds.
        alternative: Second thresholds (K − 1,), used for examples with a coin (`coin.hash_to_unit`) below `portion`;
            None if the policy is not mixed.
        portion: Fraction of the examples that `alternative` is used for.
        profile: Measured times by which `run` decides whether to copy the examples that continue; None: always copy.
        promise: Guarantee made by `control_risk`, or None.
        sets: Rule for the prediction sets of the answers, made by `conformalize`, or None.
    """

    thresholds: Tensor
    score: str | AnyScore
    budget: float
    expected: float
    shares: Tensor
    made_for: str
    unit: Literal["macs", "ms"] = "macs"
    alternative: Tensor | None = None
    portion: float = 0.0
    profile: Profile | None = None
    promise: Promise | None = None
    sets: SetRule | None = None

    def __repr__(self) -> str:
        """Show the costs, the guarantee, and at each exit what stops there and how much of the validation data did."""
        score = self.score if isinstance(self.score, str) else type(self.score).__name__
        bound = f"budget {self._cost(self.budget)}" if self.promise is None else repr(self.promise)
        sets = "" if self.sets is None else f", sets {self.sets.method!r} with coverage {self.sets.coverage:g}"
        lines = [f"Policy({score}, {bound}, expected {self._cost(self.expected)}{sets})"]
        for k, share in enumerate(self.shares.tolist()):
            rule = self._rule(k) if k < len(self.thresholds) else "what is left"
            lines.append(f"  exit {k}: {rule}; {share:.1%} of the validation data")
        return "\n".join(lines)

    def _cost(self, cost: float) -> str:
        return f"{cost:,.0f} multiply-adds" if self.unit == "macs" else f"{cost:.4g} ms"

    def _rule(self, k: int) -> str:
        """Describe which examples stop at exit k."""
        if self.alternative is None or self.alternative[k] == self.thresholds[k]:
            return self._threshold(float(self.thresholds[k]))
        other, usual = self._threshold(float(self.alternative[k])), self._threshold(float(self.thresholds[k]))
        return f"{other} for {self.portion:.1%} of the inputs, else {usual}"

    def _threshold(self, value: float) -> str:
        """Describe a threshold; that of the confidence as a probability, as its log-odds are hard to read."""
        if math.isinf(value):
            return "nothing" if value > 0 else "everything"
        if self.score == "confidence":
            return f"confidence from {torch.tensor(value, dtype=torch.float64).sigmoid():.4g}"
        return f"scores from {value:.4g}"

    @property
    def needs_coin(self) -> bool:
        """True if the answer to an example depends on its coin."""
        return self.alternative is not None or (self.sets is not None and self.sets.randomized)

    def stops(self, k: int, values: Tensor, coin: Tensor | None = None) -> Tensor:
        """Return whether each example stops at exit k, (N,) bool.

        Args:
            k: Number of the exit, counted from 0.
            values: Scores (N,) at exit k.
            coin: Number (N,) in [0, 1) of each example, needed if the policy is mixed.
        """
        stops = values >= float(self.thresholds[k])
        if self.alternative is None or coin is None:
            return stops
        return torch.where(coin < self.portion, values >= float(self.alternative[k]), stops)

    def check_made_for(self, calibrated: Calibrated) -> None:
        """Raise a ValueError unless the policy was made for this network, calibrated in this way."""
        if self.made_for != calibrated.digest:
            raise ValueError(
                f"expected a policy for this calibrated network ({calibrated.digest[:12]}…), got one for another "
                f"({self.made_for[:12]}…); make one with suffice.allocate"
            )
        if len(self.thresholds) != len(calibrated.exits) - 1:
            raise ValueError(
                f"expected {len(calibrated.exits) - 1} thresholds, one for each exit but the last, "
                f"got {len(self.thresholds)}"
            )
        if self.sets is not None:
            check_method(self.sets.method, calibrated.likelihood.name)

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the configuration and the tensors of an artifact.

        Raises:
            ValueError: If the score is a function, which cannot be saved.
        """
        score, score_tensors = self._score_parts()
        configuration = {
            "made_for": self.made_for,
            "score": score,
            "unit_per_example": self.unit,
            "budget": None if self.promise else self.budget,
            "expected": self.expected,
            "portion": self.portion,
            "promise": self.promise and asdict(self.promise),
        }
        tensors = {"thresholds": self.thresholds, "shares": self.shares, **score_tensors}
        if self.alternative is not None:
            tensors["alternative"] = self.alternative
        if self.profile is not None:
            configuration["profile"], times = self.profile.parts()
            tensors |= prefixed("profile.", times)
        if self.sets is not None:
            configuration["sets"], set_tensors = self.sets.parts()
            tensors |= prefixed("sets.", set_tensors)
        return configuration, tensors

    @classmethod
    def from_parts(cls, parts: Parts, network: object = None) -> "Policy":
        """Restore a policy from its `parts`; the network is checked when the policy is run."""
        shares = parts.tensor("shares", "K", SHARE)
        if not abs(float(shares.double().sum()) - 1) <= len(shares) * torch.finfo(shares.dtype).eps:
            parts.refuse_tensor("shares", "of a sum of 1", f"{float(shares.sum()):g}")
        made_for = parts.digest("made_for")
        promise = None if parts.none("promise") else Promise.from_parts(parts.inner("promise"))
        if parts.none("budget") == (promise is None):
            parts.refuse("budget", "null where there is a promise, and nowhere else", promise)
        width, infinite, portion = f"{len(shares) - 1}", (math.inf, -math.inf), parts.number("portion", SHARE)
        mixed = portion > 0 or "alternative" in parts
        return cls(
            parts.tensor("thresholds", width, also=infinite),
            _read_score(parts, made_for),
            math.nan if promise else parts.number("budget", POSITIVE),
            parts.number("expected", POSITIVE),
            shares,
            made_for,
            parts.choice("unit_per_example", ("macs", "ms")),
            parts.tensor("alternative", width, also=infinite) if mixed else None,
            portion,
            Profile.from_parts(parts.inner("profile", "profile.")) if "profile" in parts else None,
            promise,
            SetRule.from_parts(parts.inner("sets", "sets.")) if "sets" in parts else None,
        )

    def _score_parts(self) -> tuple[str | dict[str, Any], dict[str, Tensor]]:
        """Return the name of the score, or the configuration and the tensors of a fitted one."""
        if isinstance(self.score, str):
            return self.score, {}
        if not isinstance(self.score, VariationScore):
            raise ValueError(
                f"expected a score with a name to save, one of {sorted(scoring.SCORES)}, or a VariationScore, got a "
                "function; save its ingredients and allocate again after loading"
            )
        configuration, tensors = self.score.parts()
        return configuration, prefixed("score.", tensors)


def _read_score(parts: Parts, made_for: str) -> str | VariationScore:
    """Return the score of an artifact, by name or fitted to the network that the policy was made for."""
    if parts.is_text("score"):
        return parts.choice("score", tuple(scoring.SCORES))
    score = VariationScore.from_parts(parts.inner("score", "score."))
    if score.made_for != made_for:
        parts.refuse("score.made_for", f"that of the policy, {made_for}", score.made_for)
    return score
