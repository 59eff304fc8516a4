"""Small synthetic images for tests that train an MSDNet."""

import torch

from suffice.data.splits.assignment import DataSet
from suffice.data.splits.images import Images


def images(count, seed):
    """Make images of four classes, which differ in the quarter of the image that is bright."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    pixels = torch.randint(120, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    for image, label in zip(pixels, labels.tolist(), strict=True):
        image[:, 16 * (label // 2) :, 16 * (label % 2) :][:, :16, :16] += 100
    return Images(pixels, labels, mean=torch.full((3,), 0.3), std=torch.full((3,), 0.2))


def small_cifar():
    """Make a data set with the name of CIFAR-100, 192 images and four classes."""
    return DataSet("cifar100", images(96, 0), images(48, 1), images(48, 2), ("a", "b", "c", "d"), "abc")
