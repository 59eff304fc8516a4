"""The predecessor of paper two on MovieLens 1M: how much networks that were trained apart disagree, from one of them.

Three ensembles of eight towers without dropout, all trained on the same rows from seeds of their own. Estimators read
one tower of the first ensemble and learn the spread of that ensemble; the other two judge them, as two independent
measurements. An ensemble of eight is itself only an estimate, and is the row to be ahead of. Chen et al. 2021
(arXiv 2008.07032).
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
from suffice.reproduce.dropout.measurements import ROWS, Setting
from suffice.reproduce.dropout.recommenders import MOVIELENS, Rows
from suffice.reproduce.ledger import Ledger, Results
from suffice.reproduce.markdown import MarkdownTable, spread, table
from suffice.utils.progress import ProgressCallback
from suffice.variation.fitting import fit_variation
from suffice.variation.learning import agreement
from suffice.variation.teachers.ensemble import EnsembleTeacher

MEMBERS, ENSEMBLES = 8, 3
SEEDS = (0, 1, 2)
"""Which member of the first ensemble is read."""
KEYS = [f"seed {seed}" for seed in SEEDS]
"""Of the runs."""

ESTIMATORS: dict[str, dict[str, Any]] = {
    name: choices for name, choices in measurements.ESTIMATORS.items() if "delta" not in choices
}


def run(out: Path, progress: ProgressCallback) -> Results:
    """Everything, kept in `out/ensembles.json`.

    Raises:
        FileNotFoundError: if MovieLens 1M is not in the store.
    """
    sizes, splits, digest = recommenders.read(MOVIELENS)
    settings = {**vars(MOVIELENS), "rows": ROWS, "members": MEMBERS, "ensembles": ENSEMBLES, "seeds": SEEDS}
    book = Ledger(out / "ensembles.json", "suffice reproduce ensembles", settings, {MOVIELENS.source: digest})
    if len(book.results["runs"]) < len(SEEDS):
        networks = _networks(sizes, splits, progress)
        for key, seed in zip(KEYS, SEEDS, strict=True):
            book.run(key, partial(measure, networks, recommenders.drawn(splits, seed), seed, progress))
    return book.results


def measure(
    networks: Sequence[Sequence[ExitNetwork]], inputs: dict[str, State], seed: int, progress: ProgressCallback
) -> dict[str, Any]:
    """Every estimate of the spread over members, against two ensembles that nothing was learned from."""
    teaching, first, second = (EnsembleTeacher(members, "regression") for members in networks)
    batches = {split: measurements.batches(x) for split, x in inputs.items()}
    model = teaching.models[seed]

    def spreads(teacher: EnsembleTeacher) -> Tensor:
        return torch.cat([teacher(model, x)["std"] for x in batches["test"]])

    a, b = (agreement.unbiased(spreads(teacher), MEMBERS) for teacher in (first, second))
    rows = [{"name": "another ensemble of 8", **agreement.measures(spreads(teaching), a, b)}]
    for done, (name, choices) in enumerate(ESTIMATORS.items(), start=1):
        estimator = fit_variation(
            model,
            batches["train"],
            batches["validation"],
            teacher=teaching,
            generator=torch.Generator().manual_seed(seed),
            **choices,
        )
        estimate = torch.cat([estimator.estimate(x).variation for x in batches["test"]])
        rows.append({"name": name, **agreement.measures(estimate, a, b)})
        progress(f"estimators of member {seed}", done, len(ESTIMATORS))
    return {"rows": rows}


def _networks(sizes: tuple[int, ...], splits: dict[str, Rows], progress: ProgressCallback) -> list[list[ExitNetwork]]:
    """The ensembles, member by member."""
    made: list[list[ExitNetwork]] = [[] for _ in range(ENSEMBLES)]
    for seed in range(ENSEMBLES * MEMBERS):
        made[seed // MEMBERS].append(recommenders.trained(MOVIELENS, sizes, splits, Setting(0.0), seed))
        progress("train", seed + 1, ENSEMBLES * MEMBERS)
    return made


def spreads(results: Results) -> str:
    """What one pass says about the spread of eight networks, mean ± deviation over the networks that are read."""
    runs = list(ledger.measured(results).values())
    rows = []
    for found in zip(*(run["rows"] for run in runs), strict=True):
        cells = [spread([row[name] for row in found]) for name in ("r2", "r2_log", "spearman", "auc_low", "auc_high")]
        rows.append([found[0]["name"], *cells])
    return table(["estimate", "R²", "R² of log", "Spearman", "AUC, lowest 10 %", "AUC, highest 10 %"], rows)


TABLES: dict[str, MarkdownTable] = {"spreads": spreads}
