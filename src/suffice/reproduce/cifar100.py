"""Paper one on CIFAR-100: MSDNet small, medium and large, trained, calibrated and judged.

The paper's recipe is stochastic gradient descent with momentum 0.9, weight decay 1e-4, a learning rate of 0.1, batches
of 64, the sum of the exits' cross-entropies, random crops and mirror images, 45,000 images to train and 5,000 to
calibrate; 300 epochs with the learning rate divided by ten at half and at three quarters. Fewer epochs than that go
down a cosine instead, and the results say so. If asked for, a second network is trained the same way on smoothed
labels, for rows of its own.
"""

import importlib.util
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import suffice
from suffice import cost, data, evaluation
from suffice.data import corruptions
from suffice.data.images import Images
from suffice.data.splits import DataSet
from suffice.data.strangers import PAIRS, fitted
from suffice.losses import Loss, Smoothed
from suffice.network import ExitNetwork
from suffice.reproduce import cached, dynamic
from suffice.reproduce.dynamic import Case
from suffice.reproduce.ledger import Ledger, Results
from suffice.training import cosine, steps
from suffice.training import train as learn
from suffice.variation.comparison import Progress

CLASSES, BATCH, PAPER_EPOCHS = 100, 64, 300
SMOOTHING = 0.1
"""Of the second network's labels."""
STRENGTH = 3
"""Of the corruptions."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        size: "small", "medium" or "large".
        epochs: the paper's, or fewer.
        seed: of weights, order and augmentation; of the split of the data too.
        bfloat16: in mixed precision, through Lightning Fabric (extra "train").
        compiled: through `torch.compile`.
    """

    size: str
    epochs: int = PAPER_EPOCHS
    seed: int = 0
    bfloat16: bool = True
    compiled: bool = True

    @property
    def name(self) -> str:
        """Of the experiment."""
        return f"cifar100-msdnet-{self.size}"


def run(recipe: Recipe, out: Path, progress: Progress, *, smoothed: bool = False) -> Results:
    """Train, or go on training, then measure everything; results in `out/NAME.json`, weights in `out/NAME-weights`.

    With `smoothed`, a second network too, its weights in `out/NAME-smoothed-weights`.

    Raises:
        FileNotFoundError: if CIFAR-100 is not in the store.
        ValueError: if `out` holds another training or other results.
    """
    sets = data.load("cifar100", seed=recipe.seed)
    settings = {**vars(recipe), "schedule": "steps" if recipe.epochs == PAPER_EPOCHS else "cosine", "batch": BATCH}
    others = _strangers(sets.test)
    ledger = Ledger(out / f"{recipe.name}.json", _command(recipe, smoothed), settings, {"cifar100": sets.split})
    network = trained(recipe, sets, out / f"{recipe.name}-weights", progress)
    case = _case(network, sets, recipe.seed)
    for name, choices in {**evaluation.ABLATION, **dynamic.VARIANTS}.items():
        ledger.run(name, partial(dynamic.row, case, **choices))
    if smoothed:
        folder = out / f"{recipe.name}-smoothed-weights"
        second = _case(trained(recipe, sets, folder, progress, Smoothed(SMOOTHING)), sets, recipe.seed)
        for name, choices in dynamic.SMOOTHED.items():
            ledger.run(name, partial(dynamic.row, second, **choices))
    ledger.run("scores", lambda: {"rows": dynamic.by_score(case)})
    ledger.run("strangers", lambda: dynamic.strangers(case, _features(network, others)))
    ledger.run("corruptions", lambda: dynamic.under_corruption(case, _features(network, _corrupted(sets.test))))
    return ledger.results


def trained(
    recipe: Recipe, sets: DataSet[Images], folder: Path, progress: Progress, loss: Loss | None = None
) -> ExitNetwork:
    """The network, in evaluation mode; trained from the last checkpoint in the folder, if there is one."""
    torch.manual_seed(recipe.seed)
    network = suffice.models.msdnet(f"cifar-{recipe.size}", num_classes=CLASSES)
    generator = torch.Generator().manual_seed(recipe.seed)
    learn(
        network,
        sets.train.shuffled(BATCH, generator=generator),
        epochs=recipe.epochs,
        loss=loss,
        schedule=steps if recipe.epochs == PAPER_EPOCHS else cosine,
        channels_last=True,
        compiled=recipe.compiled,
        fabric=_fabric() if recipe.bfloat16 else None,
        resume=folder,
        every=300.0,
        generator=generator,
        on_step=lambda step: progress("epochs of training", step.epoch - 1, step.epochs),
    )
    return network.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload,no-any-return]


def _fabric() -> Any:
    if importlib.util.find_spec("lightning_fabric") is None:
        raise ImportError("expected Lightning Fabric for bfloat16, found none; pip install 'suffice[train]'")
    from lightning_fabric import Fabric

    return Fabric(precision="bf16-mixed", devices=1)


def _case(network: ExitNetwork, sets: DataSet[Images], seed: int) -> Case:
    train, validation, test = (
        cached.compute(network, part.batches(500)) for part in (sets.train, sets.validation, sets.test)
    )
    first, _ = next(iter(sets.test.batches(1)))
    return Case(cached.over(network), cost.count(network, first), train, validation, test, seed)


def _strangers(inside: Images) -> dict[str, Images]:
    """The strangers that are in the store, made to fit."""
    found = {}
    for name in PAIRS["cifar100"]:
        try:
            found[name] = fitted(data.load(name).test, inside)
        except FileNotFoundError:
            continue
    return found


def _corrupted(inside: Images) -> dict[str, Images]:
    generator = torch.Generator().manual_seed(0)
    return {
        kind: corruptions.corrupted(inside, kind, STRENGTH, generator=generator) for kind in sorted(corruptions.KINDS)
    }


def _features(network: ExitNetwork, sets: dict[str, Images]) -> dict[str, cached.Features]:
    return {name: cached.compute(network, images.batches(500)) for name, images in sets.items()}


def _command(recipe: Recipe, smoothed: bool) -> str:
    flags = [
        f"--epochs {recipe.epochs}" if recipe.epochs != PAPER_EPOCHS else "",
        f"--seed {recipe.seed}" if recipe.seed else "",
        "" if recipe.bfloat16 else "--float32",
        "" if recipe.compiled else "--eager",
        "--smoothed" if smoothed else "",
    ]
    return " ".join(["suffice reproduce", recipe.name, *filter(None, flags)])
