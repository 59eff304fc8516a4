"""What the demo is shown on: data, a trained network, and the dropout whose variation is to be learned."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

import suffice
from suffice import data
from suffice.data.images import Images
from suffice.data.sources import digits as handwritten
from suffice.network import ExitNetwork
from suffice.training.loop import train
from suffice.utils.progress import ProgressCallback
from suffice.variation.teachers.dropout import MCDropout

Name = Literal["digits", "cifar100"]

EPOCHS = 40
WIDTHS = (4, 16, 64)
"""Channels of the digits' stages: a narrow first one, so that going on is worth something."""
COPIES = 8
"""Perturbed copies of the training digits that the variation estimator learns from; they need no labels."""
PASSES = 10
FITTED, CALIBRATED, JUDGED, REPEATED = 4000, 3000, 2000, 200
"""Of CIFAR-100: images that posteriors are fitted to, tuned by, judged on, and passed a thousand times."""


@dataclass(frozen=True)
class Subject:
    """A trained network and what it meets.

    Attributes:
        about: the data in a sentence.
        network: trained, in evaluation mode.
        train: images that it was trained on.
        validation: to calibrate by.
        test: to judge on.
        teacher: the dropout.
        unlabelled: batches of inputs that the estimator of its variation learns from.
        repeated: batches of test inputs on which estimates meet the truth.
    """

    about: str
    network: ExitNetwork
    train: Images
    validation: Images
    test: Images
    teacher: MCDropout
    unlabeled: list[Tensor]
    repeated: list[Tensor]


def digits(seed: int, progress: ProgressCallback) -> Subject:
    """Scikit-learn's handwritten digits and a small network, trained here and now."""
    sets = handwritten.load(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = suffice.models.convnet(num_classes=handwritten.CLASSES, widths=WIDTHS)
        shuffled = sets.train.shuffled(64, generator=torch.Generator().manual_seed(seed))
        train(network, shuffled, epochs=EPOCHS, on_epoch=lambda epoch, _: progress("train", epoch, EPOCHS))
    copies = sets.train.images.repeat(COPIES, 1, 1, 1)
    perturbed = handwritten.perturb(copies, 1 / 3, generator=torch.Generator().manual_seed(seed))
    about = (
        f"Handwritten digits: {len(sets.train)} images to train, {len(sets.validation)} to calibrate, "
        f"{len(sets.test)} to judge, a third of the last two shifted or noised"
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
    )


def cifar100(seed: int, progress: ProgressCallback) -> Subject:
    """CIFAR-100 from the store and the MSDNet that comes with the library; dropout is put before its last features.

    Raises:
        FileNotFoundError: if CIFAR-100 is not in the store.
    """
    del progress
    sets = data.load("cifar100", seed=0)  # the split that the network was trained and calibrated on
    network = suffice.models.pretrained("cifar100-msdnet-small").network
    parts = ((sets.train, FITTED), (sets.validation, CALIBRATED), (sets.test, JUDGED))
    fitted, calibrated, judged = (_drawn(part, count, seed) for part, count in parts)
    about = (
        f"CIFAR-100 and the MSDNet small that comes with the library: {FITTED} of its training images, {CALIBRATED} "
        f"others to calibrate, {JUDGED} to judge"
    )
    return Subject(
        about,
        network,
        fitted,
        calibrated,
        judged,
        MCDropout(passes=PASSES, rate=0.2, at=["exits.3.features.0"]),
        [x for x, _ in fitted.batches(200)],
        [x for x, _ in judged.subset(torch.arange(REPEATED)).batches(50)],
    )


def _drawn(split: Images, count: int, seed: int) -> Images:
    generator = torch.Generator().manual_seed(seed)
    return split.subset(torch.randperm(len(split), generator=generator)[:count])


SUBJECTS: dict[Name, Callable[[int, ProgressCallback], Subject]] = {"digits": digits, "cifar100": cifar100}
