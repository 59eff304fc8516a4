"""Experiment of the predecessor of paper two on MovieLens 1M: the spread of an ensemble, estimated from one member.

Three ensembles of eight towers without dropout are trained on the same rows with different seeds. Estimators read one
tower of the first ensemble and are fitted to the spread of that ensemble; the other two ensembles are two independent
measurements to evaluate them against. An ensemble of eight is itself an estimate, and the baseline.
Chen et al. 2021 (arXiv 2008.07032).
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from suffice.network import ExitNetwork, State
from suffice.reproduce import ledger
from suffice.reproduce.dropout import measurements, recommenders
from suffice.reproduce.dropout.measurements import ROWS, DropoutRates
from suffice.reproduce.dropout.recommenders import MOVIELENS, Rows
from suffice.reproduce.ledger import Ledger, Results
from suffice.reproduce.markdown import MarkdownTable, spread, table
from suffice.utils.progress import ProgressCallback
from suffice.variation.features.reader import MARGINS
from suffice.variation.fitting import fit_variation
from suffice.variation.learning import agreement
from suffice.variation.teachers.ensemble import EnsembleTeacher

MEMBERS, ENSEMBLES = 8, 3
SEEDS = (0, 1, 2)
"""Index of the member of the first ensemble that is read, and seed of its fit."""
KEYS = [f"seed {seed}" for seed in SEEDS]
"""Keys of the runs."""

ESTIMATORS: dict[str, dict[str, Any]] = {
    name: choices
    for name, choices in measurements.ESTIMATORS.items()
    if "delta" not in choices and choices.get("layers") != [MARGINS]
}
"""Estimators that need no dropout."""


def run(out: Path, progress: ProgressCallback) -> Results:
    """Train the ensembles, measure every estimate, and write `out/ensembles.json`.

    Raises:
        FileNotFoundError: If MovieLens 1M is not in the store.
    """
    sizes, splits, digest = recommenders.read(MOVIELENS)
    settings = {**vars(MOVIELENS), "rows": ROWS, "members": MEMBERS, "ensembles": ENSEMBLES, "seeds": SEEDS}
    book = Ledger(out / "ensembles.json", "suffice reproduce ensembles", settings, {MOVIELENS.source: digest})
    if len(book.results["runs"]) < len(SEEDS):
        networks = _train_ensembles(sizes, splits, progress)
        for key, seed in zip(KEYS, SEEDS, strict=True):
            book.run(key, partial(measure, networks, recommenders.sample_inputs(splits, seed), seed, progress))
    return book.results


def measure(
    networks: Sequence[Sequence[ExitNetwork]], inputs: dict[str, State], seed: int, progress: ProgressCallback
) -> dict[str, Any]:
    """Evaluate every estimate of the spread over members against the two ensembles that no estimator was fitted to."""
    teacher, *references = (EnsembleTeacher(members, "regression") for members in networks)
    batches = {split: measurements.batches(x) for split, x in inputs.items()}
    model = teacher.models[seed]

    def spread_of(ensemble: EnsembleTeacher) -> Tensor:
        return torch.cat([ensemble(model, x)["std"] for x in batches["test"]])

    a, b = (agreement.unbiased(spread_of(ensemble), MEMBERS) for ensemble in references)
    rows = [{"name": "another ensemble of 8", **agreement.measures(spread_of(teacher), a, b)}]
    for done, (name, choices) in enumerate(ESTIMATORS.items(), start=1):
        estimator = fit_variation(
            model,
            batches["train"],
            batches["validation"],
            teacher=teacher,
            generator=torch.Generator().manual_seed(seed),
            **choices,
        )
        estimate = torch.cat([estimator.estimate(x).variation for x in batches["test"]])
        rows.append({"name": name, **agreement.measures(estimate, a, b)})
        progress(f"estimators of member {seed}", done, len(ESTIMATORS))
    return {"rows": rows}


def _train_ensembles(
    sizes: tuple[int, ...], splits: dict[str, Rows], progress: ProgressCallback
) -> list[list[ExitNetwork]]:
    ensembles: list[list[ExitNetwork]] = [[] for _ in range(ENSEMBLES)]
    for seed in range(ENSEMBLES * MEMBERS):
        tower = recommenders.train_tower(MOVIELENS, sizes, splits, DropoutRates(0.0), seed)
        ensembles[seed // MEMBERS].append(tower)
        progress("train", seed + 1, ENSEMBLES * MEMBERS)
    return ensembles


def spreads(results: Results) -> str:
    """Format the estimates of the spread of eight networks, mean ± deviation over the member that is read."""
    runs = list(ledger.measured(results).values())
    rows = []
    for seeds in zip(*(run["rows"] for run in runs), strict=True):
        cells = [spread([row[name] for row in seeds]) for name in ("r2", "r2_log", "spearman", "auc_low", "auc_high")]
        rows.append([seeds[0]["name"], *cells])
    return table(["estimate", "R²", "R² of log", "Spearman", "AUC, lowest 10 %", "AUC, highest 10 %"], rows)


TABLES: dict[str, MarkdownTable] = {"spreads": spreads}
