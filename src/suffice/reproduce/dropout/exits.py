"""Both papers in one network: which score knows best where to stop, the dropout variation of each exit among them?

The reference network, dropout of rate 0.2, learns EMNIST ByClass; its exits are calibrated, and an estimator for each
exit learns what dropout would say there. Every score then decides over the ladder of budgets, at equal shares of each
exit on the validation images.
"""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch

import suffice
from suffice import data, evaluation, metrics
from suffice.data.images import Images
from suffice.data.splits import DataSet
from suffice.evaluation import ranking
from suffice.reproduce import ledger
from suffice.reproduce.dropout.letters import CLASSES, SOURCE
from suffice.reproduce.dropout.measurements import drawn
from suffice.reproduce.ledger import Ledger, Results
from suffice.reproduce.markdown import MarkdownTable, spread, table
from suffice.training.loop import cosine, train
from suffice.utils.progress import ProgressCallback

SEEDS = (0, 1, 2)
KEYS = [f"seed {seed}" for seed in SEEDS]
"""Of the runs."""
WIDTHS, DROPOUT, EPOCHS, BATCH = (8, 16, 32), 0.2, 2, 128
PASSES, ROWS = 10, 12_000
"""Of the teacher, and training images that it labels."""
NAMED = ("confidence", "margin", "entropy", "epistemic")


def run(out: Path, progress: ProgressCallback) -> Results:
    """All seeds, kept in `out/exit-scores.json`.

    Raises:
        FileNotFoundError: if EMNIST ByClass is not in the store.
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
        progress("networks trained, calibrated and judged", done, len(SEEDS))
    return book.results


def measure(sets: DataSet[Images], seed: int) -> dict[str, Any]:
    """A row for each score; the seed is that of the weights, the order, the dropout and all passes."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = suffice.models.convnet(CLASSES, widths=WIDTHS, dropout=DROPOUT)
    train(network, sets.train.shuffled(BATCH, generator=generator), epochs=EPOCHS, schedule=cosine)
    validation, test = (part.batches(500) for part in (sets.validation, sets.test))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        calibrated = suffice.calibrate(network, sets.train.batches(500), validation, generator=generator)
    shown = sets.train.subset(drawn(ROWS, len(sets.train), generator)).batches(500)
    teacher = suffice.MCDropout(passes=PASSES)
    variation = suffice.fit_exit_variation(calibrated, shown, validation, teacher=teacher, generator=generator)
    ranked = ranking.rankings(calibrated, validation, test, {**{name: name for name in NAMED}, "variation": variation})
    outcome = evaluation.predict(calibrated, test)
    return {
        "notes": [str(warning.message) for warning in caught],
        "accuracy": [float(metrics.accuracy(p.log_probs, outcome.labels)) for p in outcome.predictions],
        "rows": [{k: v for k, v in row.items() if k != "curve"} for row in ranking.by_score(outcome, ranked)],
    }


def scores(results: Results) -> str:
    """What stopping on each score is worth, mean ± deviation over seeds."""
    runs = list(ledger.measured(results).values())
    rows = []
    for found in zip(*(run["rows"] for run in runs), strict=True):
        percent = spread([100 * row["accuracy"] for row in found], 2)
        cost = spread([row["macs"] / 1e6 for row in found])
        rows.append(
            [found[0]["score"], *(spread([row[m] for row in found], 4) for m in ("eefp", "aurc")), percent, cost]
        )
    return table(["score", "EEFP", "AURC", "top-1, %", "multiply-adds, M"], rows)


TABLES: dict[str, MarkdownTable] = {"scores": scores}
