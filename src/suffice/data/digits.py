"""Scikit-learn's handwritten digits: 1,797 grey images of 8×8 pixels that come with every installation.

A small set on which all of the library runs in seconds. Validation and test images are clean in two thirds of
the cases and shifted or noised in the rest, so that easy and hard examples exist.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

CLASSES = 10


@dataclass(frozen=True)
class Split:
    """Images (N, 1, 8, 8) float32 in [0, 1] and labels (N,) int64."""

    images: Tensor
    labels: Tensor

    def batches(self, size: int = 256) -> list[tuple[Tensor, Tensor]]:
        """The split cut into batches, in order."""
        return list(zip(self.images.split(size), self.labels.split(size), strict=True))

    def shuffled(self, size: int, *, generator: torch.Generator) -> "Shuffled":
        """Batches for training: another order and other shifts by up to one pixel at each pass."""
        return Shuffled(self, size, generator)


@dataclass(frozen=True)
class Shuffled:
    """A split to be iterated once an epoch, in random order, each image moved by up to one pixel."""

    split: Split
    size: int
    generator: torch.Generator

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of batches."""
        order = torch.randperm(len(self.split.labels), generator=self.generator)
        images, labels = self.split.images[order], self.split.labels[order]
        moved = shift(images, torch.randint(-1, 2, (len(labels), 2), generator=self.generator))
        yield from zip(moved.split(self.size), labels.split(self.size), strict=True)


@dataclass(frozen=True)
class Digits:
    """Disjoint splits, drawn at random in equal class proportions."""

    train: Split
    validation: Split
    test: Split


def load(seed: int, validation: int = 400, test: int = 600, share: float = 1 / 3) -> Digits:
    """The three splits.

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

    def split(rows: Tensor, perturbed: float) -> Split:
        return Split(perturb(images[rows], perturbed, generator=generator), labels[rows])

    return Digits(split(rest, 0.0), split(tune, share), split(judge, share))


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


def shift(images: Tensor, steps: Tensor) -> Tensor:
    """Move each image (N, 1, H, W) by its own steps (N, 2), down and right, at most two pixels, into black."""
    n, _, height, width = images.shape
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    rows = 2 - steps[:, 0, None] + torch.arange(height)
    columns = 2 - steps[:, 1, None] + torch.arange(width)
    return padded[torch.arange(n)[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]
