"""When to stop: a score and a threshold per exit, chosen so that the mean cost meets a budget."""

import math
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from suffice import batches
from suffice.batches import Loader
from suffice.budget import optimal, thresholds, walk
from suffice.budget import scores as scoring
from suffice.budget.coin import hash_to_unit
from suffice.budget.exit_variation import VariationScore
from suffice.budget.mixture import TOLERANCE, mix
from suffice.budget.scores import AnyScore
from suffice.budget.thresholds import choose, shares_of
from suffice.calibration.calibrated import Calibrated
from suffice.cost import Profile
from suffice.prediction import AnyPrediction, Prediction
from suffice.storage.parts import INSIDE, POSITIVE, SHARE, Parts, prefixed
from suffice.storage.stored import Stored
from suffice.utils.modes import default_modes

Unit = Literal["fraction", "macs", "ms"]
Method = Literal["geometric", "optimal"]


@dataclass(frozen=True)
class Promise:
    """What `control_risk` promised, and when it holds: see there.

    Attributes:
        loss: "accuracy" or "brier".
        max_loss: bound on the mean loss.
        confidence: probability with which the bound holds, or None for a bound in expectation.
    """

    loss: str
    max_loss: float
    confidence: float | None

    @classmethod
    def from_parts(cls, parts: Parts) -> "Promise":
        """From the fields of one."""
        confidence = None if parts.none("confidence") else parts.number("confidence", INSIDE)
        return cls(parts.choice("loss", ("accuracy", "brier")), parts.number("max_loss", INSIDE), confidence)


@dataclass(frozen=True)
class Policy(Stored):
    """An example stops at the first exit whose score reaches its threshold, and at the last in any case.

    Attributes:
        thresholds: (K − 1,), float64, on the score's scale, of "confidence" log-odds; −inf stops all, +inf nothing.
        score: name, function `(prediction, state) -> (N,)`, higher is surer, or `VariationScore`.
        budget: mean cost asked for, per example; NaN where a loss was asked for instead.
        expected: mean cost on the validation data, per example.
        shares: (K,), share of the validation data answered at each exit.
        made_for: `digest` of the calibrated network whose scores it judges.
        unit: of budget and expected: "macs", multiply-adds, or "ms", milliseconds.
        alternative: (K − 1,), thresholds of the examples whose coin (`coin.hash_to_unit`) is below `portion`, or None.
        portion: of the examples judged by `alternative`.
        profile: times by which `run` decides whether survivors are worth copying, or None: they are always.
        promise: what `control_risk` promised, or None.
    """

    thresholds: Tensor
    score: str | AnyScore
    budget: float
    expected: float
    shares: Tensor
    made_for: str = field(repr=False)
    unit: Literal["macs", "ms"] = "macs"
    alternative: Tensor | None = None
    portion: float = 0.0
    profile: Profile | None = None
    promise: Promise | None = None

    def stops(self, k: int, values: Tensor, coin: Tensor | None = None) -> Tensor:
        """Whether each example stops at exit k, (N,) bool, by its score (N,) and, if mixed, its coin (N,)."""
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

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Configuration and tensors of an artifact.

        Raises:
            ValueError: if the score is a function, which cannot be written down; use one that has a name.
        """
        score, learned = self._score_parts()
        configuration = {
            "made_for": self.made_for,
            "score": score,
            "unit_per_example": self.unit,
            "budget": None if self.promise else self.budget,
            "expected": self.expected,
            "portion": self.portion,
            "promise": self.promise and asdict(self.promise),
        }
        tensors = {"thresholds": self.thresholds, "shares": self.shares, **learned}
        if self.alternative is not None:
            tensors["alternative"] = self.alternative
        if self.profile is not None:
            configuration["profile"], times = self.profile.parts()
            tensors |= prefixed("profile.", times)
        return configuration, tensors

    @classmethod
    def from_parts(cls, parts: Parts, network: object = None) -> "Policy":
        """The reverse of `parts`; the network is checked when the policy is run."""
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
            _score(parts, made_for),
            math.nan if promise else parts.number("budget", POSITIVE),
            parts.number("expected", POSITIVE),
            shares,
            made_for,
            parts.choice("unit_per_example", ("macs", "ms")),
            parts.tensor("alternative", width, also=infinite) if mixed else None,
            portion,
            Profile.from_parts(parts.inner("profile", "profile.")) if "profile" in parts else None,
            promise,
        )

    def _score_parts(self) -> tuple[str | dict[str, Any], dict[str, Tensor]]:
        """What names the score, or what it was fitted to be."""
        if isinstance(self.score, str):
            return self.score, {}
        if not isinstance(self.score, VariationScore):
            raise ValueError(
                f"expected a score with a name to save, one of {sorted(scoring.SCORES)}, or a VariationScore, got a "
                "function; save what it is made of and allocate again"
            )
        configuration, tensors = self.score.parts()
        return configuration, prefixed("score.", tensors)


def _score(parts: Parts, made_for: str) -> str | VariationScore:
    """What names the score of an artifact, or the score that was fitted, for the same network."""
    if parts.is_text("score"):
        return parts.choice("score", tuple(scoring.SCORES))
    score = VariationScore.from_parts(parts.inner("score", "score."))
    if score.made_for != made_for:
        parts.refuse("score.made_for", f"that of the policy, {made_for}", score.made_for)
    return score


@default_modes()
def allocate(
    calibrated: Calibrated,
    val_loader: Loader,
    budget: float,
    unit: Unit = "fraction",
    score: str | AnyScore = "confidence",
    *,
    method: Method = "geometric",
    profile: Profile | None = None,
) -> Policy:
    """Thresholds whose mean cost on the validation data meets a budget.

    It is met to 0.5 %, or to one example's worth; where ties forbid that, by a policy mixed of two.

    Args:
        calibrated: the network that will run.
        val_loader: batches like those it will meet; read once, labels not needed.
        budget: mean cost per example, the uncertainty's own cost included: as a "fraction" of the cumulative
            cost of the last exit; in "macs", multiply-adds; or in "ms", milliseconds by the profile, when batches
            of its size are run and survivors take the time of a batch as small as they are.
        unit: of the budget.
        score: "confidence", "margin", "entropy", "aleatoric", "epistemic" or "patience" (of a regression, "variance" or
            "epistemic"), a function `(prediction, state) -> (N,)`, higher is surer, or what `fit_exit_variation` gives,
            whose multiply-adds count.
        method: "geometric" is the paper's, shares proportional to q^k; "optimal" takes the thresholds under which
            the mean calibrated probability of being right is greatest on the validation data, and spends less
            than the budget if more would not help.
        profile: made by `suffice.cost.profile` for this network; needed for "ms", and kept for `run`.

    Raises:
        TypeError: for a network that is not calibrated.
        ValueError: if the budget is below the cost of the first exit or above that of the last.

    Warns:
        UserWarning: if there are too few examples to come within 0.5 % of the budget.
    """
    walk.check_calibrated(calibrated)
    mean_cost, limit = _pricing(calibrated, budget, unit, profile, score)
    if method not in get_args(Method):
        raise ValueError(f"expected method to be one of {get_args(Method)}, got {method!r}")
    seen = _validation(calibrated, val_loader, scoring.resolve(score, calibrated.digest))
    pair = _pair(seen, method, mean_cost, limit)
    found = mix(seen.scores, seen.coin, pair, mean_cost, limit)
    expected = mean_cost(found.shares)
    short = limit - expected if method == "geometric" else 0.0
    if max(short, expected - limit) > TOLERANCE * limit:
        warnings.warn(
            f"asked for {limit:.4g} {_NAMES[unit]} per example, the nearest on the validation data is "
            f"{expected:.4g}: too few examples, or too many alike, to cut finer",
            stacklevel=3,
        )
    unit = "ms" if unit == "ms" else "macs"
    return Policy(
        found.thresholds, score, limit, expected, found.shares, calibrated.digest, unit, found.alternative,
        found.portion, profile,
    )  # fmt: skip


_NAMES = {"fraction": "multiply-adds", "macs": "multiply-adds", "ms": "milliseconds"}


@dataclass(frozen=True)
class _Seen:
    """Validation data at every exit: scores and chances of being right K × (N,), and each example's coin (N,)."""

    scores: list[Tensor]
    chances: list[Tensor]
    coin: Tensor


def _pricing(
    calibrated: Calibrated, budget: float, unit: str, profile: Profile | None, score: str | AnyScore
) -> tuple[Callable[[Tensor], float], float]:
    """Mean cost of shares (K,), and the budget in the same unit, checked."""
    if unit not in get_args(Unit):
        raise ValueError(f"expected unit to be one of {get_args(Unit)}, got {unit!r}")
    if unit == "ms" and profile is None:
        raise ValueError("expected a profile for a budget in 'ms', got none; make one with suffice.cost.profile")
    costs = torch.tensor(scoring.priced(calibrated.costs.cumulative, score), dtype=torch.float64)

    def mean_cost(shares: Tensor) -> float:
        return profile.per_example(shares) if unit == "ms" and profile else float(shares @ costs)

    each = [mean_cost(shares) for shares in torch.eye(len(costs), dtype=torch.float64)]
    scale = each[-1] if unit == "fraction" else 1
    low, high = each[0] / scale, each[-1] / scale
    if len(each) == 1 and budget != low:
        raise ValueError(
            f"expected a network with two exits or more to spend a budget of {budget:.4g} on, got one with a single "
            "exit, where nothing can stop earlier; suffice.attach_exits adds some"
        )
    if not low <= budget <= high:
        raise ValueError(
            f"expected a budget between {low:.4g} (all stop at the first exit) and {high:.4g} (none stops "
            f"early), in {'fractions of the last exit' if unit == 'fraction' else _NAMES[unit]}, got {budget:.4g}"
        )
    return mean_cost, min(max(budget * scale, each[0]), each[-1])


@torch.no_grad()
def _validation(calibrated: Calibrated, loader: Loader, score: AnyScore) -> _Seen:
    """Scores and chances of a whole loader at every exit; states are not kept."""
    scores: list[list[Tensor]] = [[] for _ in calibrated.exits]
    chances: list[list[Tensor]] = [[] for _ in calibrated.exits]
    coins = []
    for batch in batches.read(loader, calibrated.network):
        coins.append(hash_to_unit(batch.inputs))
        in_flight = walk.begin(calibrated, batch.inputs, start=batch.start)
        for k in range(len(calibrated.exits)):
            in_flight, prediction = walk.step(calibrated, k, in_flight, score)
            in_flight = walk.scored(in_flight, prediction, score, k)
            scores[k].append(in_flight.scores[:, k])
            chances[k].append(_chance(prediction))
    joined = [[torch.cat(parts) for parts in exits] for exits in (scores, chances)]
    return _Seen(joined[0], joined[1], torch.cat(coins))


def _chance(prediction: AnyPrediction) -> Tensor:
    """Calibrated probability (N,) of being right, float64; NaN where there is no right or wrong."""
    if isinstance(prediction, Prediction):
        return prediction.confidence.double()
    return torch.full((len(prediction),), torch.nan, dtype=torch.float64, device=prediction.mean.device)


def _pair(seen: _Seen, method: Method, mean_cost: Callable[[Tensor], float], budget: float) -> list[Tensor]:
    """Thresholds on either side of the budget, the cheaper first."""
    ranked = thresholds.rank(seen.scores)
    exits = len(ranked)
    if method == "geometric":
        family, ends = thresholds.geometric(ranked, exits), (-thresholds.STEEPEST, thresholds.STEEPEST)
    else:
        chances = torch.stack(seen.chances)
        if bool(chances.isnan().any()):
            raise ValueError("expected classes for method='optimal', got a regression; pass method='geometric'")
        prices = chances.new_tensor([mean_cost(shares) for shares in torch.eye(exits, dtype=torch.float64)])
        family, ends = optimal.most_accurate(ranked, chances, prices), optimal.ends(prices)

    def realized(found: Tensor) -> float:
        return mean_cost(shares_of(choose(seen.scores, found), exits))

    return thresholds.bracket(family, realized, budget, ends)
