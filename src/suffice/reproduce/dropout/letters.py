"""Experiment of paper two on EMNIST: a convolutional network with dropout around its hidden layer."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from suffice import data, metrics
from suffice.data.splits.assignment import DataSet
from suffice.data.splits.images import Images
from suffice.reproduce.dropout import measurements
from suffice.reproduce.dropout.measurements import DropoutRates, Task
from suffice.utils.progress import ProgressCallback

SOURCE, CLASSES = "emnist-byclass", 62
CHANNELS, WIDTH, EPOCHS, BATCH = (8, 16), 128, 2, 128
PASSES = 50
"""Number of dropout passes per label; they are cheap, since most of the network is before its dropout and runs once."""
ROWS = {**measurements.ROWS, "train": 20_000}
"""Number of rows of each split; more training rows than for ratings and clicks, whose variation is simpler."""


def run(out: Path, progress: ProgressCallback) -> dict[str, Any]:
    """Run all dropout rates and seeds, and write `out/emnist.json`.

    Raises:
        FileNotFoundError: If EMNIST ByClass is not in the store.
    """
    sets = data.load(SOURCE, seed=0)
    settings = {"channels": CHANNELS, "width": WIDTH, "epochs": EPOCHS, "batch": BATCH}
    settings |= {"passes": PASSES, "rows": ROWS}
    return measurements.run(out, "emnist", {SOURCE: sets.split}, settings, partial(task, sets), progress)


def network(rates: DropoutRates) -> nn.Sequential:
    """Build two convolutions with pooling, and a hidden layer with dropout before and after it."""
    first, second = CHANNELS
    input_dropout = [nn.Dropout(rates.inputs)] if rates.inputs else []
    return nn.Sequential(
        *input_dropout,
        nn.Conv2d(1, first, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(rates.hidden),
        nn.Linear(second * 7 * 7, WIDTH),
        nn.ReLU(),
        nn.Dropout(rates.hidden),
        nn.Linear(WIDTH, CLASSES),
    )


def task(sets: DataSet[Images], rates: DropoutRates, seed: int) -> Task:
    """Train a network and sample its images, both with one seed."""
    torch.manual_seed(seed)
    model = network(rates)
    generator = torch.Generator().manual_seed(seed)
    measurements.fit(
        model,
        sets.train.prepare(sets.train.images),
        cross_entropy,
        sets.train.labels,
        epochs=EPOCHS,
        batch=BATCH,
        generator=generator,
    )
    inputs = {split: _sample_inputs(getattr(sets, split), ROWS[split], generator) for split in ROWS}
    test = sets.test
    logits = measurements.predict(model, test.prepare(test.images))
    quality = {"accuracy": float(metrics.accuracy(logits, test.labels))}
    return Task(model, "classification", inputs, quality, PASSES)


def _sample_inputs(split: Images, count: int, generator: torch.Generator) -> torch.Tensor:
    sample = split.subset(measurements.sample_rows(count, len(split), generator))
    return split.prepare(sample.images)
