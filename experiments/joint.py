"""Compare a variation estimator trained along with its model and one fitted to the finished model.

A click model is trained on Criteo's sample, with a `JointHead` that takes a step after each step of the model; no
gradient flows from the head to the model. Then `fit_variation` is run on the finished model, once with the same rows
and as many dropout passes as the head used, and once with fewer rows and ten passes per row. All estimators read every
activation and estimate the standard deviation of the logit; the reference is 1,000 independent passes on test rows.
Costs are CPU time relative to the training of the model.

    suffice data import criteo-sample FILE
    python experiments/joint.py

prints a Markdown table and writes the runs as JSON beside this file. It takes some minutes on one core.
"""

import argparse
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

import suffice
from suffice.data.splits.tables import TableSplit
from suffice.data.store import lookup
from suffice.reproduce import ledger
from suffice.reproduce.markdown import spread
from suffice.variation.learning import agreement

SEEDS = (0, 1, 2)
EPOCHS, BATCH = 2, 128
HIDDEN, DROPOUT = (256, 128, 64), 0.2
PASSES = 2
"""Number of dropout passes of the head at each step."""
FEWER_ROWS = 30_000
"""Number of training rows of the estimator with ten passes per row."""
TEST, TRUTH = 4_000, 1_000


def main() -> None:
    """Run all seeds, write the JSON, and print the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    runs = [run_seed(seed) for seed in SEEDS]
    files = lookup.find("criteo-sample").manifest["files"]
    results = {
        "command": "python experiments/joint.py",
        **ledger.provenance(),
        "data": {name: entry["sha256"] for name, entry in files.items()},
        "seeds": SEEDS,
        "model": {"epochs": EPOCHS, "batch": BATCH, "hidden": HIDDEN, "dropout": DROPOUT},
        "truth": {"rows": TEST, "passes": TRUTH},
        "runs": runs,
    }
    ledger.write(Path(__file__).with_suffix(".json"), results)
    print(table(runs))


def run_seed(seed: int) -> list[dict[str, Any]]:
    """Train the model with the head, fit two estimators afterwards, and evaluate all three, with one seed."""
    data = suffice.data.load("criteo-sample", seed=seed, min_frequency=10)
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = suffice.models.tower(data.train.sizes, numeric=13, hidden=HIDDEN, dropout=DROPOUT)
    head = suffice.JointHead(model, teacher=teacher(PASSES), generator=generator)
    model_seconds, head_seconds = train_jointly(model, head, data.train, generator)
    validation, train = list(data.validation.batches()), list(data.train.batches(shuffle=False))
    estimators = {}
    started = time.process_time()
    estimators["along with the model"] = head.finish(validation), head_seconds + time.process_time() - started
    for name, rows, passes in (
        ("afterwards, the same rows and passes", train, EPOCHS * PASSES),
        ("afterwards, fewer rows, T = 10", train[: FEWER_ROWS // len(train[0]["labels"])], 10),
    ):
        started = time.process_time()
        fitted = suffice.fit_variation(model, rows, validation, teacher=teacher(passes), generator=generator)
        estimators[name] = fitted, time.process_time() - started
    test = first_inputs(data.test.batches(), TEST)
    truth = [teacher(TRUTH // 2)(model, test, generator=generator)["std"] for _ in range(2)]
    a, b = (agreement.unbiased(half, TRUTH // 2) for half in truth)
    return [
        {"name": name, **agreement.measures(estimator.estimate(test).variation, a, b), "cost": seconds / model_seconds}
        for name, (estimator, seconds) in estimators.items()
    ]


def teacher(passes: int) -> suffice.MCDropout:
    """Return a teacher that measures the model's own dropout on the logit."""
    return suffice.MCDropout(passes=passes, likelihood="binary")


def train_jointly(
    model: nn.Module, head: suffice.JointHead, data: TableSplit, generator: torch.Generator
) -> tuple[float, float]:
    """Train the model and the head, and return the CPU seconds of each."""
    optimizer, model_seconds, head_seconds = torch.optim.Adam(model.parameters()), 0.0, 0.0
    for _ in range(EPOCHS):
        for batch in data.shuffled(BATCH, generator=generator):
            labels = batch.pop("labels").float()
            started = time.process_time()
            optimizer.zero_grad()
            binary_cross_entropy_with_logits(model(batch)[-1][:, 0], labels).backward()
            optimizer.step()
            between = time.process_time()
            head.step(batch)
            model_seconds += between - started
            head_seconds += time.process_time() - between
    return model_seconds, head_seconds


def first_inputs(batches: Iterable[dict[str, Tensor]], count: int) -> dict[str, Tensor]:
    """Return the inputs of the first `count` rows."""
    parts = list(batches)
    return {name: torch.cat([part[name] for part in parts])[:count] for name in parts[0] if name != "labels"}


def table(runs: list[list[dict[str, Any]]]) -> str:
    """Format mean ± standard deviation over seeds."""
    lines = ["| estimator | R² | Spearman | cost, × the model's training |", "|---|---|---|---|"]
    for rows in zip(*runs, strict=True):
        cells = [spread([row[name] for row in rows]) for name in ("r2", "spearman", "cost")]
        lines.append(f"| {rows[0]['name']} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
