"""Experiment of paper one on text: the intents of CLINC150, by MiniLM with an exit after each of its layers.

    joint         exits and layers are trained together
    fine-tuned    the layers are trained for the last exit alone, as without exits; then the exits, on frozen layers
    frozen        the layers stay as they were trained for sentence embeddings; only the exits are trained
    lstm          an LSTM from scratch, with an exit after each layer

The first two start from the same weights and are trained alike; the last exit of "fine-tuned" is the plain network
that all are compared with. Of the validation part, one half serves for calibration and thresholds, the other half for
guarantees, which need data of their own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import suffice
from suffice import cost, data
from suffice.data.splits.texts import Tokens
from suffice.evaluation import cached
from suffice.evaluation.ablation import AblationStudy
from suffice.network import ExitNetwork
from suffice.reproduce.early_exit.msdnet_training import mixed_precision
from suffice.reproduce.early_exit.text import classifiers, measurements
from suffice.reproduce.early_exit.text.classifiers import TextClassifier
from suffice.reproduce.early_exit.text.subjects import Requests, TrainedClassifier
from suffice.reproduce.ledger import Ledger, Results
from suffice.training import AdamWConfig, Checkpointing, Execution, train
from suffice.training.losses import Loss, Weighted
from suffice.utils.progress import ProgressCallback

SOURCE, OUT_OF_SCOPE = "clinc150", "clinc150-out-of-scope"
SEEDS = (0, 1, 2)
BATCH, EXIT_EPOCHS = 64, 20
"""Batch size of all trainings, and epochs of exits on frozen layers."""


@dataclass(frozen=True)
class Recipe:
    """Training of one of the networks.

    Attributes:
        title: Description in the tables.
        model: Function that returns the model with a classifier for a number of classes.
        epochs: Epochs in which the layers are trained; 0 for frozen layers.
        loss: Loss of this training; None for the sum over the exits.
        optimizer: Optimizer of this training; None for the default of `train`.
        bfloat16: Train in mixed precision.
    """

    title: str
    model: Callable[[int], TextClassifier]
    epochs: int
    loss: Loss | None = None
    optimizer: AdamWConfig | None = None
    bfloat16: bool = True

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that a ledger records."""
        optimizer = None if self.optimizer is None else self.optimizer.settings()
        return {"epochs": self.epochs, "loss": repr(self.loss), "optimizer": optimizer, "bfloat16": self.bfloat16}


EPOCHS = 4
"""Epochs of MiniLM."""

RECIPES = {
    "fine-tuned": Recipe(
        "MiniLM, fine-tuned, then exits", classifiers.minilm, EPOCHS, loss=Weighted((0, 0, 0, 0, 0, 1))
    ),
    "joint": Recipe("MiniLM, fine-tuned with exits", classifiers.minilm, EPOCHS),
    "frozen": Recipe("MiniLM, frozen, exits only", classifiers.minilm, 0),
    "lstm": Recipe("LSTM from scratch", classifiers.lstm, 8, optimizer=AdamWConfig(2e-3, warmup=100), bfloat16=False),
}
"""Networks by name, the reference first."""

_EXITS_LATER = ("fine-tuned", "frozen")
"""Networks whose exits are trained on frozen layers."""


def run(out: Path, progress: ProgressCallback) -> Results:
    """Train and measure every network with each seed, and write `out/clinc150-minilm.json` and the weights beside it.

    An interrupted training is resumed, and nothing is trained if no run is missing.

    Raises:
        FileNotFoundError: If CLINC150, or its requests out of scope, are not in the store.
        ImportError: If the packages of MiniLM are not installed.
        ValueError: If `out` holds results of other settings, or of other networks.
    """
    requests, splits = load()
    settings: dict[str, Any] = {"batch": BATCH, "exit_epochs": EXIT_EPOCHS, "test": len(requests.test)}
    settings |= {name: recipe.settings for name, recipe in RECIPES.items()}
    book = Ledger(out / "clinc150-minilm.json", "suffice reproduce clinc150-minilm", settings, splits)
    for seed in SEEDS:
        for name in RECIPES:
            prefix = f"{name}, seed {seed}"
            make = partial(train_and_cache, name, seed, requests, out, progress)
            measures = measurements.measures(whole=name == "joint")
            book.fill(prefix, {f"{prefix}: {key}": measure for key, measure in measures.items()}, make)
    return book.results


def load() -> tuple[Requests, dict[str, str]]:
    """Return the requests as tokens, shortest first, and the SHA-256 of the split of each data set.

    Raises:
        FileNotFoundError: If a data set is not in the store.
    """
    sets, others = data.load(SOURCE), data.load(OUT_OF_SCOPE)
    validation = sets.validation.encoded(classifiers.token_ids)
    rank = torch.arange(len(validation))  # the stored order is that of the intents, so that halves are stratified
    parts = {
        "train": sets.train.encoded(classifiers.token_ids),
        "validation": validation.subset(rank[::2]),
        "held_out": validation.subset(rank[1::2]),
        "test": sets.test.encoded(classifiers.token_ids),
        "out_of_scope": others.test.encoded(classifiers.token_ids),
    }
    requests = Requests(**{part: tokens.by_length() for part, tokens in parts.items()})
    return requests, {SOURCE: sets.split, OUT_OF_SCOPE: others.split}


def train_and_cache(
    name: str, seed: int, requests: Requests, out: Path, progress: ProgressCallback
) -> tuple[ExitNetwork, TrainedClassifier]:
    """Return the network with trained exits, and the subject of its measurements."""
    torch.manual_seed(seed)
    recipe, example = RECIPES[name], requests.example
    model = recipe.model(requests.num_classes)
    network = attach(model, example, freeze=not recipe.epochs)
    if recipe.epochs:
        folder = out / f"clinc150-minilm-{name}-seed{seed}-weights"
        train_layers(network, recipe, requests.train, seed, folder, progress)
    network.eval()
    features = {}
    for done, part in enumerate(vars(requests), start=1):
        features[part] = cached.compute(network, requests.batches(part))
        progress("features of all parts", done, len(vars(requests)))
    study = AblationStudy(
        cached.network_on_features(network), cost.count(network, example), features["train"], features["validation"],
        features["test"], seed,
    )  # fmt: skip
    if name in _EXITS_LATER:
        train_exits(study, last=name == "frozen")
    return network, TrainedClassifier(
        network, recipe.model(requests.num_classes).eval(), study, features["out_of_scope"], requests
    )


def attach(model: TextClassifier, example: dict[str, torch.Tensor], freeze: bool) -> ExitNetwork:
    """Attach an exit after each layer but the last, whose exit is the model's own classifier."""
    at = [f"layers.{layer}" for layer in range(len(model.layers) - 1)]
    return suffice.attach_exits(model.eval(), at, example=example, freeze=freeze)


def train_layers(
    network: ExitNetwork, recipe: Recipe, tokens: Tokens, seed: int, folder: Path, progress: ProgressCallback
) -> None:
    """Train layers and exits, or resume from the last checkpoint in a folder."""
    generator = torch.Generator().manual_seed(seed)
    train(
        network,
        tokens.shuffled(BATCH, generator=generator),
        epochs=recipe.epochs,
        loss=recipe.loss,
        optimizer=recipe.optimizer,
        execution=Execution(fabric=mixed_precision() if recipe.bfloat16 else None),
        checkpoint=Checkpointing(folder, every=120.0, generator=generator),
        on_step=lambda step: progress("epochs of training", step.epoch - 1, step.epochs),
    )


def train_exits(study: AblationStudy, last: bool) -> None:
    """Train the classifiers of the exits on the training features; that of the last exit only if `last` is true."""
    study.network.requires_grad_(True)
    study.network.exits[-1].requires_grad_(last)
    torch.manual_seed(study.seed)
    generator = torch.Generator().manual_seed(study.seed)
    train(study.network, study.train.shuffled(BATCH, generator), epochs=EXIT_EPOCHS)
    study.network.requires_grad_(False).eval()
