"""Augmentation of small images, vectorised over the batch, on whatever device the batch is on.

Images are (N, C, H, W) of any type; what is drawn comes from a CPU generator, so that a seed gives the same
images on every device.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

Augment = Callable[..., Tensor]
"""`augment(images, *, generator)`: another version of each image."""


def shift(images: Tensor, steps: Tensor, margin: int = 2) -> Tensor:
    """Move each image by its own steps (N, 2), down and right, at most `margin` pixels, into black."""
    height, width = images.shape[2:]
    windows = pad(images, (margin,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    start = margin - steps.to(images.device)
    return windows[torch.arange(len(images), device=images.device), :, start[:, 0], start[:, 1]]


def flip(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the chosen (N,) bool images, left to right."""
    rows = chosen.to(images.device).nonzero()[:, 0]
    return images.index_copy(0, rows, images[rows].flip(3))


@dataclass(frozen=True)
class Crop:
    """Move each image by up to `padding` pixels each way, into black: a random crop of the padded image."""

    padding: int = 4

    def __call__(self, images: Tensor, *, generator: torch.Generator) -> Tensor:
        """Cropped images, of the same size."""
        steps = torch.randint(-self.padding, self.padding + 1, (len(images), 2), generator=generator)
        return shift(images, steps, self.padding)


@dataclass(frozen=True)
class CropFlip:
    """A random crop, and a mirror image in half of the cases: the usual augmentation of CIFAR."""

    padding: int = 4

    def __call__(self, images: Tensor, *, generator: torch.Generator) -> Tensor:
        """Cropped and mirrored images, of the same size."""
        cropped = Crop(self.padding)(images, generator=generator)
        return flip(cropped, torch.rand(len(images), generator=generator) < 0.5)


def unchanged(images: Tensor, *, generator: torch.Generator) -> Tensor:
    """The images as they are: for `shuffled(augment=unchanged)`."""
    return images
