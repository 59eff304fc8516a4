"""Computation at one exit, from φ and its outputs, in tensors: prediction, ensemble, streak and score.

The mathematics is that of `suffice.calibration` and `suffice.budget`; a trace of it takes no branch on values.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from suffice.budget import scores as scoring
from suffice.budget.policy import Policy
from suffice.budget.scores import ExitScore, Score
from suffice.calibration import ensemble as mie
from suffice.calibration.calibrated import Calibrated
from suffice.calibration.exits import CalibratedExit
from suffice.deploy.graphs.values import NEXT
from suffice.network import State
from suffice.prediction import AnyPrediction, Kind, Streak

KINDS: dict[str, Kind] = {
    "classification": "classification",
    "binary": "classification",
    "multilabel": "multilabel",
    "regression": "regression",
    "heteroscedastic": "regression",
}
"""Kind of the predictions of each likelihood."""

_LARGEST = torch.finfo(torch.float64).max


@dataclass(frozen=True)
class Step:
    """Prediction, ensemble and score at one exit.

    Attributes:
        k: Number of the exit, counted from 0.
        exit: Calibrated exit, a copy, as a trace may leave tensors without values in its caches.
        kind: Kind of the predictions.
        ensemble: How exits predict together.
        weight: Weight of the exit in the ensemble.
        before: Total weight of the exits before it.
        score: Score of this exit; None at the last exit or without a policy.
        streak: Whether a score needs the number of exits in a row with the same label.
        last: Whether this is the last exit.
    """

    k: int
    exit: CalibratedExit
    kind: Kind
    ensemble: mie.Combination
    weight: float
    before: float
    score: Score | None
    streak: bool
    last: bool

    @classmethod
    def of(cls, calibrated: Calibrated, policy: Policy | None, k: int) -> "Step":
        """Return the step of exit k under a policy."""
        last = k == len(calibrated.exits) - 1
        score = None if policy is None else scoring.resolve(policy.score, calibrated.digest)
        at_exit = score.at(k) if isinstance(score, ExitScore) else score
        totals = [0.0, *accumulate(calibrated.weights)]
        return cls(
            k,
            copy.deepcopy(calibrated.exits[k]),
            KINDS[calibrated.likelihood.name],
            calibrated.ensemble,
            calibrated.weights[k],
            totals[k],
            None if last else at_exit,
            score is not None and not last and scoring.SCORES["patience"] is score,
            last,
        )

    def __call__(
        self, phi: Tensor, outputs: Tensor, state: State, running: Sequence[Tensor], streak: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Compute the outputs of the exit by name, in the order of the graph, those of the state left out.

        Args:
            phi: Features φ, (N, D).
            outputs: Outputs of the classifier, (N, C).
            state: State behind the stage.
            running: Tensors of the ensemble's averages over the earlier exits; none at the first exit.
            streak: Labels at the exit before and their counts; none at the first exit.
        """
        prediction: Any = self.exit.predict(phi, outputs)
        results: dict[str, Tensor] = {}
        if self.ensemble:
            averages = self._extended(prediction, running)
            prediction = averages.prediction()
            if not self.last:
                results |= {f"{NEXT}running.{i}": tensor for i, tensor in enumerate(mie.tensors(averages))}
        if self.streak:
            before: Streak | None = (streak[0], streak[1].long()) if streak else None
            prediction, (label, count) = prediction.count_streak(before)
            results |= {f"{NEXT}streak.label": label, f"{NEXT}streak.count": count.double()}
        results |= {name: getattr(prediction, name) for name in prediction_fields(prediction)}
        if self.score is not None:
            results["score"] = _finite(self.score(prediction, state).double())
        return results

    def _extended(self, member: AnyPrediction, running: Sequence[Tensor]) -> mie.Running:
        """Return the averages up to this exit."""
        product = self.ensemble == "product"
        earlier = mie.restore(self.kind, running, self.before, product) if running else None
        return mie.extend(earlier, member, self.weight, product)


def prediction_fields(prediction: Any) -> list[str]:
    """Return the names of the tensors that a prediction consists of."""
    return [field.name for field in fields(prediction) if field.name not in ("members", "agreeing")]


def _finite(values: Tensor) -> Tensor:
    """Replace infinities by the largest finite numbers, as `scores.evaluate` does; NaN stays, to be noticed."""
    above, below = values == torch.inf, values == -torch.inf
    return torch.where(above, _LARGEST, torch.where(below, -_LARGEST, values))
