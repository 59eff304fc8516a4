"""Measurements of paper two on networks trained with dropout: every estimate against an independent reference.

The reference is the mean of two measurements of 500 passes each, on rows that were not used for anything else. The
estimators are fitted to a few passes per training row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from suffice.network import State, batch_size, call, output_tensor, select
from suffice.reproduce.ledger import Ledger
from suffice.twin import inference
from suffice.utils.progress import ProgressCallback
from suffice.variation import comparison
from suffice.variation.features.reader import MARGINS
from suffice.variation.teachers.dropout import MCDropout
from suffice.variation.teachers.spreads import LikelihoodName

SEEDS = (0, 1, 2)
ROWS = {"train": 12_000, "validation": 4_000, "test": 3_000}
"""Number of rows that estimators are fitted to, selected on, and evaluated on."""
PASSES, TRUTH_PASSES = 10, 1000
BATCH = 1000

ESTIMATORS: dict[str, dict[str, Any]] = {
    "estimator, prediction only": {"layers": []},
    "estimator, last layer": {"layers": "last"},
    "estimator, all layers": {},
    "estimator, all layers, on/off only": {"strengths": "on"},
    "estimator, margins": {"layers": [MARGINS]},
    "estimator, auto layers": {"layers": "auto"},
    "estimator, last layer and delta rule": {"layers": "last", "delta": True},
}
"""Arguments of `fit_variation`, by name of the estimator."""


@dataclass(frozen=True)
class DropoutRates:
    """Dropout rates of a training.

    Attributes:
        hidden: Rate in the hidden layers.
        inputs: Rate on the embeddings, or on the input if there are none.
    """

    hidden: float
    inputs: float = 0.0

    @property
    def name(self) -> str:
        """Name of the setting in tables."""
        return f"p = {self.hidden:g}" + (f", {self.inputs:g} on inputs" if self.inputs else "")


RATES = (DropoutRates(0.1), DropoutRates(0.2), DropoutRates(0.5), DropoutRates(0.2, inputs=0.2))


def key(rates: DropoutRates, seed: int) -> str:
    """Return the key of a run."""
    return f"{rates.name}; seed {seed}"


def keys() -> list[str]:
    """Return the keys of all runs that the tables need."""
    return [key(rates, seed) for seed in SEEDS for rates in RATES]


@dataclass(frozen=True)
class Task:
    """Trained network with the data of its measurements.

    Attributes:
        model: Network with dropout, in any mode.
        likelihood: Likelihood of its outputs.
        inputs: Inputs of each split, as many rows as `ROWS` states.
        quality: Measures of the deterministic predictions on all test rows, by name.
        passes: Number of dropout passes per label that estimators are fitted to.
    """

    model: nn.Module
    likelihood: LikelihoodName
    inputs: dict[str, State]
    quality: dict[str, float]
    passes: int = PASSES


def run(
    out: Path,
    name: str,
    data: dict[str, str],
    settings: dict[str, Any],
    make: Callable[[DropoutRates, int], Task],
    progress: ProgressCallback,
) -> dict[str, Any]:
    """Measure all dropout rates and seeds on one data set, and write `out/NAME.json`."""
    fixed = {"rows": ROWS, "passes": PASSES, "truth_passes": TRUTH_PASSES, "seeds": SEEDS, "estimators": [*ESTIMATORS]}
    ledger = Ledger(out / f"{name}.json", f"suffice reproduce {name}", {**fixed, **settings}, data)
    for seed in SEEDS:
        for rates in RATES:
            run_key = key(rates, seed)
            ledger.run(run_key, partial(_train_and_measure, make, rates, seed, partial(_report, progress, run_key)))
    return ledger.results


def _train_and_measure(
    make: Callable[[DropoutRates, int], Task], rates: DropoutRates, seed: int, progress: ProgressCallback
) -> dict[str, Any]:
    progress("train", 0, 1)
    task = make(rates, seed)
    progress("train", 1, 1)
    return measure(task, seed, progress)


def _report(progress: ProgressCallback, run: str, what: str, done: int, total: int) -> None:
    progress(f"{run}: {what}", done, total)


def measure(task: Task, seed: int, progress: ProgressCallback) -> dict[str, Any]:
    """Measure every estimate of the variation of one network.

    Returns:
        "quality" of the task; "rows", the measures of each estimate; "subsets" of layers tried by the estimator with
        automatic layers; "left_out", the estimates that were not possible.
    """
    loaders = {split: batches(x) for split, x in task.inputs.items()}
    teacher = MCDropout(passes=task.passes, likelihood=task.likelihood)
    fit = comparison.FitSpec(loaders["train"], loaders["validation"], teacher, estimators=ESTIMATORS)
    generator = torch.Generator().manual_seed(seed)
    compared = comparison.compare(
        task.model, fit, loaders["test"], truth_passes=TRUTH_PASSES, generator=generator, progress=progress
    )
    rows = [{name: value for name, value in row.items() if name != "estimate"} for row in compared.rows]
    return {
        "quality": task.quality,
        "rows": rows,
        "subsets": list(compared.estimators["estimator, auto layers"].quality.subsets),
        "left_out": compared.left_out,
    }


def fit(
    model: nn.Module,
    x: State,
    loss: Callable[[Tensor, Tensor], Tensor],
    labels: Tensor,
    *,
    epochs: int,
    batch: int,
    generator: torch.Generator,
) -> None:
    """Train a model with Adam, in random order, and leave it in evaluation mode."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-6, fused=True)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(labels), generator=generator).split(batch):
            optimizer.zero_grad()
            loss(output_tensor(call(model, select(x, rows))), labels[rows]).backward()
            optimizer.step()
    model.eval()


def predict(model: nn.Module, x: State) -> Tensor:
    """Compute the outputs (N, ·) of a model for all inputs, without dropout."""
    with inference(model) as model:
        return torch.cat([output_tensor(call(model, batch)) for batch in batches(x)])


def sample_rows(count: int, num_rows: int, generator: torch.Generator) -> Tensor:
    """Sample `count` of `num_rows` row indices without replacement; all of them if there are fewer."""
    return torch.randperm(num_rows, generator=generator)[:count]


def batches(x: State) -> list[State]:
    """Split inputs into batches, in order."""
    return [select(x, rows) for rows in torch.arange(batch_size(x)).split(BATCH)]
