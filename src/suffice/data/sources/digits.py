"""Scikit-learn's handwritten digits: 1,797 gray images of 8×8 pixels, available in every installation.

On this small set the whole library runs in seconds. Two thirds of the validation and test images are clean, the others
are shifted or noisy, so that there are easy and hard examples.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from suffice.data.augment import Crop, shift
from suffice.data.splits import assignment
from suffice.data.splits.assignment import DataSet, Size
from suffice.data.splits.images import Images

NAME = "digits"
"""Name by which the set is loaded; it is in every installation, and never stored."""
CLASSES = 10

FACTS = {
    "name": NAME,
    "title": "Handwritten digits of scikit-learn",
    "kind": "images",
    "licence": "as scikit-learn distributes it",
    "home": "https://scikit-learn.org/stable/modules/generated/sklearn.datasets.load_digits.html",
}


Digits = DataSet[Images]
"""Disjoint stratified splits of images (N, 1, 8, 8) float32 in [0, 1]."""


def all_images() -> tuple[Tensor, Tensor]:
    """Return all images (1797, 1, 8, 8) float32 in [0, 1], unperturbed, and their labels (1797,) int64."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels / 16).float().reshape(-1, 1, 8, 8)
    return images, torch.from_numpy(labels).long()


def load(seed: int, validation: Size = 400, test: Size = 600, share: float = 1 / 3) -> Digits:
    """Load the three splits; `train.shuffled` shifts images by up to one pixel.

    Args:
        seed: Seed of the split and of the perturbations.
        validation: Size of the validation split, a number (int) or fraction (float) of the images.
        test: Size of the test split, likewise; the other images, about 800 by default, are for training.
        share: Fraction of the validation and test images that are perturbed.
    """
    from sklearn.model_selection import train_test_split

    images, labels = all_images()
    index = torch.arange(len(labels)).numpy()
    validation, test = (assignment.row_count(len(labels), size) for size in (validation, test))
    train_rows, held_out = train_test_split(
        index, test_size=validation + test, stratify=labels, random_state=seed, shuffle=True
    )
    validation_rows, test_rows = train_test_split(
        held_out, test_size=test, stratify=labels[held_out], random_state=seed
    )
    generator = torch.Generator().manual_seed(seed)

    def make_split(rows: Tensor, perturbed: float) -> Images:
        return Images(perturb(images[rows], perturbed, generator=generator), labels[rows])

    assigned = np.zeros(len(labels), dtype=np.uint8)
    assigned[validation_rows], assigned[test_rows] = assignment.VALIDATION, assignment.TEST
    return DataSet(
        name=NAME,
        train=replace(make_split(train_rows, 0.0), augment=Crop(padding=1), training=True),
        validation=make_split(validation_rows, share),
        test=make_split(test_rows, share),
        classes=tuple("0123456789"),
        split=assignment.fingerprint(assigned),
    )


def perturb(images: Tensor, share: float, *, generator: torch.Generator, noise: float = 0.3) -> Tensor:
    """Shift or add noise to a random fraction of images (N, 1, H, W) in [0, 1].

    Args:
        images: Images; not modified.
        share: Probability that an image is perturbed: shifted by up to two pixels in each direction, or with Gaussian
            noise, with equal probability.
        generator: CPU generator.
        noise: Standard deviation of the noise; pixels are clamped to [0, 1].
    """
    n = len(images)
    chosen = torch.rand(n, generator=generator) < share
    shifted = chosen & (torch.rand(n, generator=generator) < 0.5)
    steps = torch.randint(-2, 3, (n, 2), generator=generator) * shifted[:, None]
    noisy = images + noise * torch.randn(images.shape, generator=generator)
    result = torch.where((chosen & ~shifted)[:, None, None, None], noisy.clamp(0, 1), images)
    return shift(result, steps)
