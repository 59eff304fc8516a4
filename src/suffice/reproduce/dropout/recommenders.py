"""Paper two on MovieLens 1M and Criteo: towers of embeddings and hidden layers, for a rating and for a click."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

import suffice
from suffice import data, metrics
from suffice.data.tables import Table
from suffice.network import ExitNetwork, State, select
from suffice.reproduce.dropout import measurements
from suffice.reproduce.dropout.measurements import ROWS, Setting, Task
from suffice.utils.progress import ProgressCallback

Rows = tuple[dict[str, Tensor], Tensor]
"""Inputs of a tower, and labels (N,) float32."""


@dataclass(frozen=True)
class Recipe:
    """A tower for a data set of the store, and how it is trained: Adam, learning rate 1e-3, weight decay 1e-6."""

    name: str
    source: str
    likelihood: Literal["regression", "binary"]
    embedding: int
    hidden: tuple[int, ...]
    epochs: int
    batch: int


MOVIELENS = Recipe("movielens", "movielens-1m", "regression", 16, (128, 64), 2, 1024)
CRITEO = Recipe("criteo", "criteo-sample", "binary", 8, (256, 128, 64), 2, 256)


def run(recipe: Recipe, out: Path, progress: ProgressCallback) -> dict[str, Any]:
    """All settings and seeds, kept in `out/NAME.json`.

    Raises:
        FileNotFoundError: if the data set is not in the store.
    """
    sizes, splits, digest = read(recipe)
    make = partial(task, recipe, sizes, splits)
    return measurements.run(out, recipe.name, {recipe.source: digest}, vars(recipe), make, progress)


def read(recipe: Recipe) -> tuple[tuple[int, ...], dict[str, Rows], str]:
    """Sizes of the categorical columns, all rows of each split in memory, and the digest of the split."""
    sets = data.load(recipe.source, seed=0)
    splits = {split: _gathered(getattr(sets, split)) for split in ROWS}
    numeric = splits["train"][0].get("numeric")
    if numeric is not None:
        mean, deviation = numeric.mean(dim=0), numeric.std(dim=0).clamp_min(1e-6)
        for x, _ in splits.values():
            x["numeric"] = (x["numeric"] - mean) / deviation
    return sets.train.sizes, splits, sets.split


def task(recipe: Recipe, sizes: tuple[int, ...], splits: dict[str, Rows], setting: Setting, seed: int) -> Task:
    """A tower trained from this seed, and rows drawn by it."""
    model = trained(recipe, sizes, splits, setting, seed)
    return Task(model, recipe.likelihood, drawn(splits, seed), _quality(recipe, model, splits["test"]))


def drawn(splits: dict[str, Rows], seed: int) -> dict[str, State]:
    """Inputs of as many rows of each split as `ROWS` says."""
    generator = torch.Generator().manual_seed(seed)
    return {
        split: select(x, measurements.drawn(ROWS[split], len(labels), generator))
        for split, (x, labels) in splits.items()
    }


def trained(
    recipe: Recipe, sizes: tuple[int, ...], splits: dict[str, Rows], setting: Setting, seed: int
) -> ExitNetwork:
    """A tower, in evaluation mode; the seed is that of the weights, the order and the dropout."""
    torch.manual_seed(seed)
    x, labels = splits["train"]
    model = suffice.models.tower(
        sizes,
        numeric=x["numeric"].shape[1] if "numeric" in x else 0,
        embedding=recipe.embedding,
        hidden=recipe.hidden,
        dropout=setting.hidden,
        embedding_dropout=setting.inputs,
    )
    if recipe.likelihood == "regression":
        torch.nn.init.constant_(model.exit(0).classifier.bias, float(labels.mean()))
    measurements.learn(
        model,
        x,
        _loss(recipe),
        labels[:, None],
        epochs=recipe.epochs,
        size=recipe.batch,
        generator=torch.Generator().manual_seed(seed),
    )
    return model


def _loss(recipe: Recipe) -> Any:
    return mse_loss if recipe.likelihood == "regression" else binary_cross_entropy_with_logits


def _quality(recipe: Recipe, model: ExitNetwork, rows: Rows) -> dict[str, float]:
    x, labels = rows
    answers = measurements.answers(model, x)
    if recipe.likelihood == "regression":
        return {"rmse": float(metrics.rmse(answers, labels[:, None]))}
    loss = binary_cross_entropy_with_logits(answers, labels[:, None])
    return {"auc": float(metrics.auroc(answers[:, 0], labels > 0)), "log loss, nats": float(loss)}


def _gathered(split: Table) -> Rows:
    """A whole split."""
    batches = list(split.batches(1 << 16))
    columns = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    return columns, columns.pop("labels").float()
