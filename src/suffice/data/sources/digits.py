"""Scikit-learn's handwritten digits: 1,797 grey images of 8×8 pixels that come with every installation.

A small set on which all of the library runs in seconds. Validation and test images are clean in two thirds of
the cases and shifted or noised in the rest, so that easy and hard examples exist.
"""

import numpy as np
import torch
from torch import Tensor

from suffice.data import splits
from suffice.data.augment import Crop, shift
from suffice.data.images import Images
from suffice.data.splits import DataSet

CLASSES = 10


Digits = DataSet[Images]
"""Disjoint splits of images (N, 1, 8, 8) float32 in [0, 1], drawn at random in equal class proportions."""


def load(seed: int, validation: int = 400, test: int = 600, share: float = 1 / 3) -> Digits:
    """The three splits; training images are moved by up to one pixel when shuffled.

    Args:
        seed: of the split and of the perturbations.
        validation: images held out for calibration.
        test: images held out for judging; the rest, about 800, are for training.
        share: of the validation and test images that are perturbed.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels / 16).float().reshape(-1, 1, 8, 8)
    labels = torch.from_numpy(labels).long()
    index = torch.arange(len(labels)).numpy()
    rest, held = train_test_split(index, test_size=validation + test, stratify=labels, random_state=seed, shuffle=True)
    tune, judge = train_test_split(held, test_size=test, stratify=labels[held], random_state=seed)
    generator = torch.Generator().manual_seed(seed)

    def split(rows: Tensor, perturbed: float, augment: Crop | None = None) -> Images:
        return Images(perturb(images[rows], perturbed, generator=generator), labels[rows], augment=augment)

    assigned = np.zeros(len(labels), dtype=np.uint8)
    assigned[tune], assigned[judge] = splits.VALIDATION, splits.TEST
    return DataSet(
        name="digits",
        train=split(rest, 0.0, Crop(padding=1)),
        validation=split(tune, share),
        test=split(judge, share),
        classes=tuple("0123456789"),
        split=splits.fingerprint(assigned),
    )


def perturb(images: Tensor, share: float, *, generator: torch.Generator, noise: float = 0.3) -> Tensor:
    """Shift or noise a random share of images (N, 1, H, W) in [0, 1]; the rest stay as they are.

    Args:
        images: left untouched.
        share: chance of each image to be perturbed; half of those are moved by up to two pixels each way,
            into black, and half get Gaussian noise.
        generator: randomness.
        noise: standard deviation of the noise; pixels stay in [0, 1].
    """
    n = len(images)
    chosen = torch.rand(n, generator=generator) < share
    moved = chosen & (torch.rand(n, generator=generator) < 0.5)
    steps = torch.randint(-2, 3, (n, 2), generator=generator) * moved[:, None]
    noisy = images + noise * torch.randn(images.shape, generator=generator)
    result = torch.where((chosen & ~moved)[:, None, None, None], noisy.clamp(0, 1), images)
    return shift(result, steps)
