"""Paper two on EMNIST: letters and digits, a convolutional network with dropout around its hidden layer."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from suffice import data, metrics
from suffice.data.images import Images
from suffice.data.splits import DataSet
from suffice.reproduce.dropout import measurements
from suffice.reproduce.dropout.measurements import Setting, Task
from suffice.utils.progress import ProgressCallback

SOURCE, CLASSES = "emnist-byclass", 62
CHANNELS, WIDTH, EPOCHS, BATCH = (8, 16), 128, 2, 128
PASSES = 50
"""Of the labels: most of the network lies before its dropout and is passed once, so that they cost little."""
ROWS = {**measurements.ROWS, "train": 20_000}
"""More to learn from than of ratings and clicks: what varies is less simple."""


def run(out: Path, progress: ProgressCallback) -> dict[str, Any]:
    """All settings and seeds, kept in `out/emnist.json`.

    Raises:
        FileNotFoundError: if EMNIST ByClass is not in the store.
    """
    sets = data.load(SOURCE, seed=0)
    settings = {"channels": CHANNELS, "width": WIDTH, "epochs": EPOCHS, "batch": BATCH}
    settings |= {"passes": PASSES, "rows": ROWS}
    return measurements.run(out, "emnist", {SOURCE: sets.split}, settings, partial(task, sets), progress)


def network(setting: Setting) -> nn.Sequential:
    """Two convolutions, each halved by pooling, and a hidden layer with dropout before and after it."""
    first, second = CHANNELS
    before = [nn.Dropout(setting.inputs)] if setting.inputs else []
    return nn.Sequential(
        *before,
        nn.Conv2d(1, first, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(setting.hidden),
        nn.Linear(second * 7 * 7, WIDTH),
        nn.ReLU(),
        nn.Dropout(setting.hidden),
        nn.Linear(WIDTH, CLASSES),
    )


def task(sets: DataSet[Images], setting: Setting, seed: int) -> Task:
    """A network trained from this seed, and images drawn by it."""
    torch.manual_seed(seed)
    model = network(setting)
    generator = torch.Generator().manual_seed(seed)
    measurements.learn(
        model,
        sets.train.prepare(sets.train.images),
        cross_entropy,
        sets.train.labels,
        epochs=EPOCHS,
        size=BATCH,
        generator=generator,
    )
    drawn = {split: _drawn(getattr(sets, split), ROWS[split], generator) for split in ROWS}
    test = sets.test
    answers = measurements.answers(model, test.prepare(test.images))
    quality = {"accuracy": float(metrics.accuracy(answers, test.labels))}
    return Task(model, "classification", drawn, quality, PASSES)


def _drawn(split: Images, count: int, generator: torch.Generator) -> torch.Tensor:
    chosen = split.subset(measurements.drawn(count, len(split), generator))
    return split.prepare(chosen.images)
