"""Networks of different overconfidence on CIFAR-100, each an MSDNet small with four exits and its cached features.

    pretrained         the network of the library, trained on 45,000 augmented images
    heads, N images    its stages, frozen, and new classifiers fitted to N images that the stages were not trained on
    N images           trained from scratch on N images without augmentation

Images of the official test part are only used for evaluation. Every network is calibrated on images that neither its
stages nor its classifiers were trained on.
"""

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from suffice import cost, metrics
from suffice.cost import Costs
from suffice.data.splits.images import Images
from suffice.evaluation import cached
from suffice.evaluation.ablation import AblationStudy
from suffice.evaluation.cached import Features
from suffice.models import zoo
from suffice.network import ExitNetwork
from suffice.reproduce.early_exit.msdnet_training import MSDNetExperiment, Sets, train_network, weights_folder
from suffice.reproduce.early_exit.msdnets import BATCH, cache_features
from suffice.training import AdamWConfig, train
from suffice.training.losses import Loss, Smoothed
from suffice.utils.progress import ProgressCallback

SOURCE, PRETRAINED = "cifar100", "cifar100-msdnet-small"
EPOCHS = 20
"""Number of epochs of a training from scratch."""
HEAD_EPOCHS, HEAD_BATCH, HEAD_RATE = 100, 64, 0.01
HELD_OUT = 2500
"""Number of images that exits with fitted heads are calibrated on."""


Make = Callable[[int, Path, ProgressCallback], AblationStudy]
"""Function from a seed, the folder of the weights, and a callback for the progress to a network over its features."""


def load(seed: int) -> Sets:
    """Load CIFAR-100, split with a seed.

    Raises:
        FileNotFoundError: If it is not in the store.
    """
    return MSDNetExperiment(SOURCE, "small", seed=seed).load()


@dataclass(frozen=True)
class OverconfidentNetwork:
    """Network of the comparison.

    Attributes:
        title: Title in tables.
        seeds: Seeds that it is trained with.
        make: Function that trains it with a seed, in a folder for weights.
    """

    title: str
    seeds: tuple[int, ...]
    make: Make

    @property
    def names(self) -> list[str]:
        """Names of the trained networks, one for each seed."""
        return [self.name(seed) for seed in self.seeds]

    def name(self, seed: int) -> str:
        """Return the name of the network that is trained with a seed."""
        return f"{self.title}, seed {seed}"


@cache
def pretrained_network() -> tuple[ExitNetwork, Costs]:
    """Return the pretrained network over its features, and its costs."""
    network = zoo.pretrained(PRETRAINED).network
    return cached.network_on_features(network), cost.count(network, torch.zeros(1, 3, 32, 32))


@cache
def pretrained_features(part: Literal["train", "validation", "test"]) -> Features:
    """Compute the features of the pretrained network for a part of the split that it was trained with."""
    images = getattr(load(0), part)
    return cached.compute(zoo.pretrained(PRETRAINED).network, images.batches(BATCH, shuffle=False))


def pretrained(seed: int, out: Path, progress: ProgressCallback) -> AblationStudy:
    """Return the pretrained network."""
    del out, progress
    network, costs = pretrained_network()
    train, validation, test = (pretrained_features(part) for part in ("train", "validation", "test"))
    return AblationStudy(network, costs, train, validation, test, seed)


def with_fitted_heads(seed: int, out: Path, progress: ProgressCallback, *, images: int) -> AblationStudy:
    """Fit new classifiers to random images of the pretrained network's validation split; the others calibrate them."""
    del out, progress
    frozen, costs = pretrained_network()
    held_out = pretrained_features("validation")
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(held_out.labels), generator=generator)
    network = copy.deepcopy(frozen).requires_grad_(True)
    for exit_ in network.exits:
        nn.init.zeros_(exit_.classifier.weight)  # type: ignore[union-attr,arg-type]
        nn.init.zeros_(exit_.classifier.bias)  # type: ignore[union-attr,arg-type]
    train_part = held_out.subset(rows[HELD_OUT : HELD_OUT + images])
    optimizer = AdamWConfig(HEAD_RATE, weight_decay=0.0)
    torch.manual_seed(seed)
    train(network, train_part.shuffled(HEAD_BATCH, generator), epochs=HEAD_EPOCHS, optimizer=optimizer)
    validation = held_out.subset(rows[:HELD_OUT])
    return AblationStudy(network.eval(), costs, train_part, validation, pretrained_features("test"), seed)


def trained_from_scratch(
    seed: int, out: Path, progress: ProgressCallback, *, images: int, loss: Loss | None = None, name: str = ""
) -> AblationStudy:
    """Train on random images of the training split without augmentation, or resume this training."""
    config = MSDNetExperiment(SOURCE, "small", EPOCHS, seed)
    sets = config.load()
    assert isinstance(sets.train, Images)
    rows = torch.randperm(len(sets.train), generator=torch.Generator().manual_seed(seed))[:images]
    digest = hashlib.sha256(sets.split.encode() + rows.numpy().tobytes()).hexdigest()
    subset = replace(sets, train=replace(sets.train.subset(rows), augment=None), split=digest)
    folder = weights_folder(config, out, f"overconfidence-{images}{name}")
    network = train_network(config, subset, folder, progress, loss)
    return cache_features(network, subset, seed)


def training_error(study: AblationStudy) -> list[float]:
    """Compute the fraction of the training images that each exit predicts wrongly, without augmentation."""
    classifiers = (study.network.exit(k).classifier for k in range(len(study.network.exits)))
    with torch.no_grad():
        logits = [classifier(phi) for classifier, phi in zip(classifiers, study.train.phi, strict=True)]
    return [1 - float(metrics.correct(values, study.train.labels).double().mean()) for values in logits]


def examples_per_feature(features: Features) -> float:
    """Compute the number of examples per feature of the last exit's classifier, its bias included."""
    return len(features.labels) / (features.phi[-1].shape[1] + 1)


SEEDS = (0, 1, 2)
NETWORKS = (
    OverconfidentNetwork("pretrained", (0,), pretrained),
    OverconfidentNetwork("heads, 2,500 images", SEEDS, partial(with_fitted_heads, images=2500)),
    OverconfidentNetwork("heads, 500 images", SEEDS, partial(with_fitted_heads, images=500)),
    OverconfidentNetwork("10,000 images", SEEDS, partial(trained_from_scratch, images=10_000)),
    OverconfidentNetwork(
        "10,000 images, label smoothing",
        SEEDS[:1],
        partial(trained_from_scratch, images=10_000, loss=Smoothed(0.1), name="-smoothed"),
    ),
    OverconfidentNetwork("45,000 images", SEEDS[:1], partial(trained_from_scratch, images=45_000)),
)
"""Networks of the comparison, those that train fastest first."""
