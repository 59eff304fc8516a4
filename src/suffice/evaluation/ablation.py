"""Ablation of the calibration: each part alone, and all together."""

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

AVERAGE = {"ensemble": "average", "ensemble_weights": "cost"}
"""Ensemble of the paper, as arguments of `calibrate`."""

ABLATION: dict[str, dict[str, Any]] = {
    "vanilla": {"structure": None, "temperature": False, "ensemble": False},
    "temperature": {"structure": None, "temperature": True, "ensemble": False},
    "ensemble": {"structure": None, "temperature": False, **AVERAGE},
    "ensemble + temperature": {"structure": None, "temperature": True, **AVERAGE},
    "Laplace": {"link": "sampled", "temperature": False, "ensemble": False},
    "Laplace + temperature": {"link": "sampled", "temperature": True, "ensemble": False},
    "all": {"link": "sampled", "temperature": True, **AVERAGE},
}
"""Rows of every table, as arguments of `calibrate`: each part of the paper alone, and all together."""


def summary(
    calibrated: Calibrated, validation: Outcome, test: Outcome, *, generator: torch.Generator
) -> dict[str, Any]:
    """Compute one row of a table, as plain numbers.

    Args:
        calibrated: Calibrated network that both outcomes come from.
        validation: Outcome from which thresholds are chosen.
        test: Outcome that is measured.
        generator: Random generator of the bootstrap; the same state gives the same resamples.

    Returns:
        "tuned": δ and T of each exit. "averaged": measures averaged over the budgets. "intervals": their `bootstrap`.
        "exits": measures of each exit. "reliability": count, confidence and hits of ten bins, for each exit.
        "curve": for each budget, mean and requested multiply-adds, the shares of the exits, accuracy and ECE.

    Raises:
        TypeError: Unless the targets are classes; use `per_exit` and `averaged` instead.
    """
    test.require_classes()
    num_exits, curve, rows = len(calibrated.exits), [], []
    for answer in over_budgets(calibrated, validation, test):
        rows.append(measure(answer.prediction, test.labels))
        shares = torch.bincount(answer.exit_index, minlength=num_exits) / len(answer.exit_index)
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
    """Trained network over cached features, with the costs of the original network.

    Attributes:
        network: Network over the features.
        costs: Costs of the network that computed the features.
        train: Features of the training data, without augmentation.
        validation: Features of data that the network was not trained on.
        test: Features of data that were not used for any choice.
        seed: Seed of offsets and resamples.
        cache: Calibrated networks and their warnings, by the choices that they were calibrated with.
    """

    network: ExitNetwork
    costs: Costs
    train: Features
    validation: Features
    test: Features
    seed: int
    cache: dict[str, tuple[Calibrated, list[str]]] = field(default_factory=dict, repr=False)

    def calibrated(self, **choices: Any) -> tuple[Calibrated, list[str]]:
        """Calibrate with these choices, once for the same choices.

        Returns:
            The calibrated network, and the messages of the warnings.
        """
        key = json.dumps(choices, sort_keys=True)
        if key not in self.cache:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                calibrated = calibrate(
                    self.network, self.train, self.validation, costs=self.costs, generator=self.generator(), **choices
                )
            self.cache[key] = calibrated, [str(warning.message) for warning in caught]
        return self.cache[key]

    def generator(self) -> torch.Generator:
        """Return a new generator with the seed of the study."""
        return torch.Generator().manual_seed(self.seed)


def row(study: AblationStudy, **choices: Any) -> dict[str, Any]:
    """Compute one row of the ablation: measures at each exit and over the ladder of budgets, with intervals."""
    calibrated, notes = study.calibrated(**choices)
    validation, test = (predict(calibrated, part) for part in (study.validation, study.test))
    return {"notes": notes, **summary(calibrated, validation, test, generator=study.generator())}
