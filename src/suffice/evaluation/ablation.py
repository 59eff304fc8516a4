"""Rows of the ablation: each part of the calibration alone, and together."""

import json
import warnings
from dataclasses import dataclass, field
from typing import Any

import torch

from suffice import metrics
from suffice.calibration.calibrate import calibrate
from suffice.calibration.calibrated import Calibrated
from suffice.cost import Costs
from suffice.evaluation.bootstrap import bootstrap
from suffice.evaluation.cached import Features
from suffice.evaluation.ladder import averaged, over_budgets
from suffice.evaluation.outcomes import Outcome, measure, per_exit, predict
from suffice.network import ExitNetwork
from suffice.prediction import Regression

ABLATION: dict[str, dict[str, Any]] = {
    "vanilla": {"structure": None, "temperature": False, "ensemble": False},
    "temperature": {"structure": None, "temperature": True, "ensemble": False},
    "ensemble": {"structure": None, "temperature": False, "ensemble": True},
    "ensemble + temperature": {"structure": None, "temperature": True, "ensemble": True},
    "Laplace": {"temperature": False, "ensemble": False},
    "Laplace + temperature": {"temperature": True, "ensemble": False},
    "all": {"temperature": True, "ensemble": True},
}
"""The rows that every table has, as arguments of `calibrate`: each part alone, and together."""


def summary(
    calibrated: Calibrated, validation: Outcome, test: Outcome, *, generator: torch.Generator
) -> dict[str, Any]:
    """What a row of a table is made of: plain numbers.

    Args:
        calibrated: what gave both outcomes.
        validation: where thresholds come from.
        test: where everything is measured.
        generator: randomness of the bootstrap; the same state resamples rows alike.

    Returns:
        "tuned": δ and T of each exit. "averaged": measures over the budgets. "intervals": their `bootstrap`.
        "exits": measures of each exit. "reliability": count, confidence and hits of ten bins, for each exit.
        "curve": for each budget, mean multiply-adds and those requested, the shares of the exits, accuracy and ECE.

    Raises:
        TypeError: for a regression, which `per_exit` and `averaged` measure.
    """
    if isinstance(test.predictions[0], Regression):
        raise TypeError("expected an outcome of classes, got one of a regression; ask per_exit and averaged for it")
    exits, curve, rows = len(calibrated.exits), [], []
    for answer in over_budgets(calibrated, validation, test):
        rows.append(measure(answer.prediction, test.labels))
        shares = torch.bincount(answer.exits, minlength=exits) / len(answer.exits)
        point = {name: rows[-1][name] for name in ("accuracy", "ece")}
        curve.append({"macs": answer.macs, "requested": answer.requested, **point, "shares": shares.tolist()})
    answers = (answer.prediction for answer in over_budgets(calibrated, validation, test))
    return {
        "tuned": [{"prior_precision": e.prior_precision, "temperature": e.temperature} for e in calibrated.exits],
        "averaged": averaged(rows, test),
        "intervals": bootstrap(answers, test.labels, generator=generator),
        "exits": per_exit(test),
        "reliability": [
            metrics.reliability(prediction.confidence, hits, bins=10).tolist()
            for prediction, hits in zip(test.predictions, test.hits, strict=True)
        ],
        "curve": curve,
    }


@dataclass(frozen=True)
class AblationStudy:
    """A trained network over cached features, with the costs of the real one.

    Attributes:
        network: over features.
        costs: of the network that they come from.
        train: features of the training data, as they are without augmentation.
        validation: of data that the network was not trained on.
        test: of data that nothing was chosen on.
        seed: of offsets and resamples.
        made: what was calibrated, by its choices.
    """

    network: ExitNetwork
    costs: Costs
    train: Features
    validation: Features
    test: Features
    seed: int
    made: dict[str, tuple[Calibrated, list[str]]] = field(default_factory=dict, repr=False)

    def calibrated(self, **choices: Any) -> tuple[Calibrated, list[str]]:
        """Calibrated by these choices, and what there was to be noted; once for the same choices."""
        key = json.dumps(choices, sort_keys=True)
        if key not in self.made:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                made = calibrate(
                    self.network, self.train, self.validation, costs=self.costs, generator=self.generator(), **choices
                )
            self.made[key] = made, [str(warning.message) for warning in caught]
        return self.made[key]

    def generator(self) -> torch.Generator:
        """Randomness, the same at each call."""
        return torch.Generator().manual_seed(self.seed)


def row(study: AblationStudy, **choices: Any) -> dict[str, Any]:
    """A row of the ablation: measures at each exit and over the ladder of budgets, with intervals."""
    calibrated, notes = study.calibrated(**choices)
    validation, test = (predict(calibrated, part) for part in (study.validation, study.test))
    return {"notes": notes, **summary(calibrated, validation, test, generator=study.generator())}
