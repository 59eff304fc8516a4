"""What paper two measures, for a network trained with dropout: every estimate against an independent truth.

The truth is the mean of two measurements of 500 passes each, on rows that nothing was learned from. The estimators
learn from few passes a row of training rows.
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
from suffice.variation.teachers.dropout import MCDropout
from suffice.variation.teachers.spreads import LikelihoodName

SEEDS = (0, 1, 2)
ROWS = {"train": 12_000, "validation": 4_000, "test": 3_000}
"""That estimators learn from, that they are chosen by, and that all estimates are judged on."""
PASSES, TRUTH_PASSES = 10, 1000
BATCH = 1000

ESTIMATORS: dict[str, dict[str, Any]] = {
    "estimator, prediction only": {"layers": []},
    "estimator, last layer": {"layers": "last"},
    "estimator, all layers": {},
    "estimator, all layers, on/off only": {"strengths": "on"},
    "estimator, auto layers": {"layers": "auto"},
    "estimator, last layer and delta rule": {"layers": "last", "delta": True},
}
"""Arguments of `fit_variation`."""


@dataclass(frozen=True)
class Setting:
    """Rates of dropout in training: of hidden layers, and of what comes in (embeddings, or the input)."""

    hidden: float
    inputs: float = 0.0

    @property
    def name(self) -> str:
        """As tables show it."""
        return f"p = {self.hidden:g}" + (f", {self.inputs:g} on inputs" if self.inputs else "")


SETTINGS = (Setting(0.1), Setting(0.2), Setting(0.5), Setting(0.2, inputs=0.2))


def key(setting: Setting, seed: int) -> str:
    """What a run is called."""
    return f"{setting.name}; seed {seed}"


def keys() -> list[str]:
    """Of all runs that the tables need."""
    return [key(setting, seed) for seed in SEEDS for setting in SETTINGS]


@dataclass(frozen=True)
class Task:
    """A trained network and what it meets.

    Attributes:
        model: with dropout, in any mode.
        likelihood: of its answers.
        inputs: x of the rows of `ROWS`, by split.
        quality: how good it is on the test rows, without dropout, by name.
        passes: T of the labels that estimators learn from.
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
    make: Callable[[Setting, int], Task],
    progress: ProgressCallback,
) -> dict[str, Any]:
    """All settings and seeds of one data set, kept in `out/NAME.json`."""
    fixed = {"rows": ROWS, "passes": PASSES, "truth_passes": TRUTH_PASSES, "seeds": SEEDS}
    ledger = Ledger(out / f"{name}.json", f"suffice reproduce {name}", {**fixed, **settings}, data)
    for seed in SEEDS:
        for setting in SETTINGS:
            name = key(setting, seed)
            ledger.run(name, partial(_one, make, setting, seed, partial(_told, progress, name)))
    return ledger.results


def _one(
    make: Callable[[Setting, int], Task], setting: Setting, seed: int, progress: ProgressCallback
) -> dict[str, Any]:
    progress("train", 0, 1)
    task = make(setting, seed)
    progress("train", 1, 1)
    return measure(task, seed, progress)


def _told(progress: ProgressCallback, run: str, what: str, done: int, total: int) -> None:
    progress(f"{run}: {what}", done, total)


def measure(task: Task, seed: int, progress: ProgressCallback) -> dict[str, Any]:
    """Every estimate of the variation, and the subsets of layers that were tried."""
    loaders = {split: batches(x) for split, x in task.inputs.items()}
    teacher = MCDropout(passes=task.passes, likelihood=task.likelihood)
    fit = comparison.Fit(loaders["train"], loaders["validation"], teacher, estimators=ESTIMATORS)
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


def learn(
    model: nn.Module,
    x: State,
    loss: Callable[[Tensor, Tensor], Tensor],
    labels: Tensor,
    *,
    epochs: int,
    size: int,
    generator: torch.Generator,
) -> None:
    """Train by Adam, rows in random order; the model is left in evaluation mode."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-6, fused=True)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(labels), generator=generator).split(size):
            optimizer.zero_grad()
            loss(output_tensor(call(model, select(x, rows))), labels[rows]).backward()
            optimizer.step()
    model.eval()


def answers(model: nn.Module, x: State) -> Tensor:
    """The model's own, without dropout."""
    with inference(model) as model:
        return torch.cat([output_tensor(call(model, batch)) for batch in batches(x)])


def drawn(count: int, rows: int, generator: torch.Generator) -> Tensor:
    """So many rows at random."""
    return torch.randperm(rows, generator=generator)[:count]


def batches(x: State) -> list[State]:
    """Inputs in order."""
    return [select(x, rows) for rows in torch.arange(batch_size(x)).split(BATCH)]
