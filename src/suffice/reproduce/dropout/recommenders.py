"""Experiments of paper two on MovieLens 1M (ratings) and Criteo (clicks): towers of embeddings and hidden layers."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

import suffice
from suffice import data, metrics
from suffice.data.splits.tables import TableSplit
from suffice.network import ExitNetwork, State, select
from suffice.reproduce.dropout import measurements
from suffice.reproduce.dropout.measurements import ROWS, DropoutRates, Task
from suffice.utils.progress import ProgressCallback

Rows = tuple[dict[str, Tensor], Tensor]
"""Inputs of a tower by name, and labels (N,) float32."""


@dataclass(frozen=True)
class TowerConfig:
    """Architecture and training of a tower for one data set; Adam with learning rate 1e-3 and weight decay 1e-6.

    Attributes:
        name: Name of the experiment.
        source: Name of the data set in the store.
        likelihood: Likelihood of the outputs.
        embedding: Width of each embedding.
        hidden: Widths of the hidden layers.
        epochs: Number of training epochs.
        batch: Batch size.
    """

    name: str
    source: str
    likelihood: Literal["regression", "binary"]
    embedding: int
    hidden: tuple[int, ...]
    epochs: int
    batch: int


MOVIELENS = TowerConfig("movielens", "movielens-1m", "regression", 16, (128, 64), 2, 1024)
CRITEO = TowerConfig("criteo", "criteo-sample", "binary", 8, (256, 128, 64), 2, 256)


def run(config: TowerConfig, out: Path, progress: ProgressCallback) -> dict[str, Any]:
    """Run all dropout rates and seeds on one data set, and write `out/NAME.json`.

    Raises:
        FileNotFoundError: If the data set is not in the store.
    """
    sizes, splits, digest = read(config)
    make = partial(task, config, sizes, splits)
    return measurements.run(out, config.name, {config.source: digest}, vars(config), make, progress)


def read(config: TowerConfig) -> tuple[tuple[int, ...], dict[str, Rows], str]:
    """Read a whole data set into memory, with standardized numeric columns.

    Returns:
        Sizes of the categorical columns, the rows of each split, and the digest of the split.
    """
    sets = data.load(config.source, seed=0)
    splits = {split: _read_all(getattr(sets, split)) for split in ROWS}
    numeric = splits["train"][0].get("numeric")
    if numeric is not None:
        mean, deviation = numeric.mean(dim=0), numeric.std(dim=0).clamp_min(1e-6)
        for x, _ in splits.values():
            x["numeric"] = (x["numeric"] - mean) / deviation
    return sets.train.sizes, splits, sets.split


def task(config: TowerConfig, sizes: tuple[int, ...], splits: dict[str, Rows], rates: DropoutRates, seed: int) -> Task:
    """Train a tower and sample its rows, both with one seed."""
    model = train_tower(config, sizes, splits, rates, seed)
    return Task(model, config.likelihood, sample_inputs(splits, seed), _quality(config, model, splits["test"]))


def sample_inputs(splits: dict[str, Rows], seed: int) -> dict[str, State]:
    """Sample the inputs of `ROWS` rows of each split."""
    generator = torch.Generator().manual_seed(seed)
    return {
        split: select(x, measurements.sample_rows(ROWS[split], len(labels), generator))
        for split, (x, labels) in splits.items()
    }


def train_tower(
    config: TowerConfig, sizes: tuple[int, ...], splits: dict[str, Rows], rates: DropoutRates, seed: int
) -> ExitNetwork:
    """Train a tower, with one seed for the weights, the order and the dropout, and return it in evaluation mode."""
    torch.manual_seed(seed)
    x, labels = splits["train"]
    model = suffice.models.tower(
        sizes,
        numeric=x["numeric"].shape[1] if "numeric" in x else 0,
        embedding=config.embedding,
        hidden=config.hidden,
        dropout=rates.hidden,
        embedding_dropout=rates.inputs,
    )
    if config.likelihood == "regression":
        torch.nn.init.constant_(model.exit(0).classifier.bias, float(labels.mean()))
    measurements.fit(
        model,
        x,
        _loss(config),
        labels[:, None],
        epochs=config.epochs,
        batch=config.batch,
        generator=torch.Generator().manual_seed(seed),
    )
    return model


def _loss(config: TowerConfig) -> Any:
    return mse_loss if config.likelihood == "regression" else binary_cross_entropy_with_logits


def _quality(config: TowerConfig, model: ExitNetwork, rows: Rows) -> dict[str, float]:
    x, labels = rows
    outputs = measurements.predict(model, x)
    if config.likelihood == "regression":
        return {"rmse": float(metrics.rmse(outputs, labels[:, None]))}
    loss = binary_cross_entropy_with_logits(outputs, labels[:, None])
    return {"auc": float(metrics.auroc(outputs[:, 0], labels > 0)), "log loss, nats": float(loss)}


def _read_all(split: TableSplit) -> Rows:
    """Read a whole split."""
    batches = list(split.batches(1 << 16, shuffle=False))
    columns = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    return columns, columns.pop("labels").float()
