"""Augmentation of small images, vectorized over the batch, on the device of the batch.

Images are (N, C, H, W) of any type. Random numbers come from a CPU generator, so that a seed yields the same images on
every device.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

Augment = Callable[..., Tensor]
"""Function `augment(images, *, generator)` that returns a random variant of each image."""


def shift(images: Tensor, steps: Tensor, margin: int = 2) -> Tensor:
    """Shift each image by its own steps (N, 2), down and right, at most `margin` pixels; the border is black."""
    height, width = images.shape[2:]
    windows = pad(images, (margin,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    start = margin - steps.to(images.device)
    return windows[torch.arange(len(images), device=images.device), :, start[:, 0], start[:, 1]]


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the images where `chosen` (N,) bool is true, left to right."""
    rows = chosen.to(images.device).nonzero()[:, 0]
    return images.index_copy(0, rows, images[rows].flip(3))


@dataclass(frozen=True)
class Crop:
    """Random crop of the zero-padded image: a shift by up to `padding` pixels in each direction."""

    padding: int = 4

    def __call__(self, images: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the cropped images, of the same size."""
        steps = torch.randint(-self.padding, self.padding + 1, (len(images), 2), generator=generator)
        return shift(images, steps, self.padding)


@dataclass(frozen=True)
class CropFlip:
    """Random crop and horizontal flip with probability 1/2: the usual augmentation of CIFAR."""

    padding: int = 4

    def __call__(self, images: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return the cropped and mirrored images, of the same size."""
        cropped = Crop(self.padding)(images, generator=generator)
        return flip(cropped, torch.rand(len(images), generator=generator) < 0.5)


def unchanged(images: Tensor, *, generator: torch.Generator) -> Tensor:
    """Return the images unchanged, for `shuffled(augment=unchanged)`."""
    return images
