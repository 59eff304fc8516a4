"""Subjects of the demo: data, a trained network, and the dropout whose variation is estimated."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

import suffice
from suffice import data
from suffice.data.sources import digits as handwritten
from suffice.data.splits.images import Images
from suffice.network import ExitNetwork
from suffice.training.config import SGDConfig
from suffice.training.loop import train
from suffice.utils.progress import ProgressCallback
from suffice.variation.teachers.dropout import MCDropout

Name = Literal["digits", "cifar100"]

EPOCHS = 40
WIDTHS = (4, 16, 64)
"""Channels of each stage for digits; the first stage is narrow, so that later exits are more accurate."""
COPIES = 8
"""Number of perturbed copies of the training digits that the variation estimator is fitted to, without labels."""
PASSES = 10
TRAIN, VALIDATION, TEST, TRUTH = 4000, 3000, 2000, 200
"""Number of CIFAR-100 images that posteriors are fitted to, tuned on, evaluated on, and measured by dropout."""


@dataclass(frozen=True)
class Subject:
    """Trained network and its data.

    Attributes:
        about: Description of the data, without a full stop.
        network: Trained network, in evaluation mode.
        train: Images that the network was trained on.
        validation: Images for calibration and for the policy.
        test: Images for evaluation.
        teacher: Dropout passes whose variation is estimated.
        unlabeled: Batches of inputs that the variation estimator is fitted to.
        repeated: Batches of test inputs on which the estimates are compared with many dropout passes.
        layers: Layers whose strengths the variation estimator reads, as for `fit_variation`.
        builder: Name of the network, by which `suffice.runs.networks` builds it.
    """

    about: str
    network: ExitNetwork
    train: Images
    validation: Images
    test: Images
    teacher: MCDropout
    unlabeled: list[Tensor]
    repeated: list[Tensor]
    layers: str
    builder: str


def digits_network() -> ExitNetwork:
    """Build the network for digits, before training."""
    return suffice.models.convnet(num_classes=handwritten.CLASSES, widths=WIDTHS)


def digits(seed: int, progress: ProgressCallback) -> Subject:
    """Train a small network on scikit-learn's handwritten digits."""
    sets = handwritten.load(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = digits_network()
        shuffled = sets.train.shuffled(64, generator=torch.Generator().manual_seed(seed))
        train(
            network,
            shuffled,
            epochs=EPOCHS,
            optimizer=SGDConfig(),
            on_epoch=lambda epoch, _: progress("train", epoch, EPOCHS),
        )
    copies = sets.train.images.repeat(COPIES, 1, 1, 1)
    perturbed = handwritten.perturb(copies, 1 / 3, generator=torch.Generator().manual_seed(seed))
    about = (
        f"Handwritten digits: {len(sets.train)} training, {len(sets.validation)} validation and {len(sets.test)} test "
        "images, a third of the last two shifted or noised"
    )
    return Subject(
        about,
        network.eval(),
        sets.train,
        sets.validation,
        sets.test,
        MCDropout(passes=PASSES),
        list(perturbed.split(256)),
        list(sets.test.images.split(100)),
        layers="all",
        builder="suffice.demo.subjects:digits_network",
    )


def cifar100(seed: int, progress: ProgressCallback) -> Subject:
    """Load CIFAR-100 from the store and the pretrained MSDNet; the dropout is inserted before its last features.

    Raises:
        FileNotFoundError: If CIFAR-100 is not in the store.
    """
    del progress
    sets = data.load("cifar100", seed=0)  # the split that the network was trained and calibrated on
    builder = "cifar100-msdnet-small"
    network = suffice.models.pretrained(builder).network
    counts = ((sets.train, TRAIN), (sets.validation, VALIDATION), (sets.test, TEST))
    train_images, validation, test = (_sample(split, count, seed) for split, count in counts)
    about = (
        f"CIFAR-100 and the pretrained MSDNet small: {TRAIN} of its training images, {VALIDATION} validation and "
        f"{TEST} test images"
    )
    return Subject(
        about,
        network,
        train_images,
        validation,
        test,
        MCDropout(passes=PASSES, rate=0.2, at=["exits.3.features.0"]),
        [x for x, _ in train_images.batches(200, shuffle=False)],
        [x for x, _ in test.subset(torch.arange(TRUTH)).batches(50)],
        layers="last",  # 4,000 images are too few for the strengths of all 86
        builder=builder,
    )


def _sample(split: Images, count: int, seed: int) -> Images:
    generator = torch.Generator().manual_seed(seed)
    return split.subset(torch.randperm(len(split), generator=generator)[:count])


SUBJECTS: dict[Name, Callable[[int, ProgressCallback], Subject]] = {"digits": digits, "cifar100": cifar100}
