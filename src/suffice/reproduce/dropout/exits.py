"""Experiment that combines both papers: scores as exit criteria, among them the dropout variation at each exit.

The reference network is trained on EMNIST ByClass with dropout of rate 0.2. Its exits are calibrated, and an estimator
of the dropout variation is fitted at each exit. Every score is then evaluated over the ladder of budgets, with the same
share of validation images at each exit.
"""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch

import suffice
from suffice import data, evaluation, metrics
from suffice.data.splits.assignment import DataSet
from suffice.data.splits.images import Images
from suffice.evaluation import ranking
from suffice.reproduce import ledger
from suffice.reproduce.dropout.letters import CLASSES, SOURCE
from suffice.reproduce.dropout.measurements import sample_rows
from suffice.reproduce.ledger import Ledger, Results
from suffice.reproduce.markdown import MarkdownTable, spread, table
from suffice.training import SGDConfig, cosine, train
from suffice.utils.progress import ProgressCallback

SEEDS = (0, 1, 2)
KEYS = [f"seed {seed}" for seed in SEEDS]
"""Keys of the runs."""
WIDTHS, DROPOUT, EPOCHS, BATCH = (8, 16, 32), 0.2, 2, 128
PASSES, ROWS = 10, 12_000
"""Number of passes of the teacher, and of training images that it labels."""
SCORES = ("confidence", "margin", "entropy", "epistemic")


def run(out: Path, progress: ProgressCallback) -> Results:
    """Run all seeds, and write `out/exit-scores.json`.

    Raises:
        FileNotFoundError: If EMNIST ByClass is not in the store.
    """
    sets = data.load(SOURCE, seed=0)
    settings = {
        "widths": WIDTHS,
        "dropout": DROPOUT,
        "epochs": EPOCHS,
        "batch": BATCH,
        "passes": PASSES,
        "rows": ROWS,
        "seeds": SEEDS,
    }
    book = Ledger(out / "exit-scores.json", "suffice reproduce exit-scores", settings, {SOURCE: sets.split})
    for done, (key, seed) in enumerate(zip(KEYS, SEEDS, strict=True), start=1):
        book.run(key, partial(measure, sets, seed))
        progress("train, calibrate and evaluate", done, len(SEEDS))
    return book.results


def measure(sets: DataSet[Images], seed: int) -> dict[str, Any]:
    """Train and calibrate a network, and evaluate each score, with one seed for all random numbers.

    Returns:
        "notes", the warnings of the calibration; "accuracy" of each exit; "rows", the measures of each score.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = suffice.models.convnet(CLASSES, widths=WIDTHS, dropout=DROPOUT)
    train(network, sets.train.shuffled(BATCH, generator=generator), epochs=EPOCHS, optimizer=SGDConfig(schedule=cosine))
    validation, test = (split.batches(500) for split in (sets.validation, sets.test))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        training = sets.train.batches(500, shuffle=False)
        calibrated = suffice.calibrate(network, training, validation, generator=generator, **evaluation.ABLATION["all"])
    unlabeled = sets.train.subset(sample_rows(ROWS, len(sets.train), generator)).batches(500, shuffle=False)
    teacher = suffice.MCDropout(passes=PASSES)
    variation = suffice.fit_exit_variation(calibrated, unlabeled, validation, teacher=teacher, generator=generator)
    ranked = ranking.rankings(calibrated, validation, test, {**{name: name for name in SCORES}, "variation": variation})
    outcome = evaluation.predict(calibrated, test)
    return {
        "notes": [str(warning.message) for warning in caught],
        "accuracy": [float(metrics.accuracy(p.log_probs, outcome.labels)) for p in outcome.predictions],
        "rows": [{k: v for k, v in row.items() if k != "curve"} for row in ranking.by_score(outcome, ranked)],
    }


def scores(results: Results) -> str:
    """Format the comparison of exit scores, mean ± deviation over seeds."""
    runs = list(ledger.measured(results).values())
    rows = []
    for seeds in zip(*(run["rows"] for run in runs), strict=True):
        percent = spread([100 * row["accuracy"] for row in seeds], 2)
        cost = spread([row["macs"] / 1e6 for row in seeds])
        rows.append(
            [seeds[0]["score"], *(spread([row[m] for row in seeds], 4) for m in ("eefp", "aurc")), percent, cost]
        )
    return table(["score", "EEFP", "AURC", "top-1, %", "multiply-adds, M"], rows)


TABLES: dict[str, MarkdownTable] = {"scores": scores}
