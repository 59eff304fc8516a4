"""Out-of-distribution images: other data sets in the format of a split, and synthetic images.

In `PAIRS` the nearest out-of-distribution set comes first. The classes of a pair are not always disjoint in meaning
(`docs/data.md`), which limits the accuracy of any detector.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from suffice.data.splits.images import Images

PAIRS = {
    "cifar10": ("cifar100", "tiny-imagenet", "emnist-letters"),
    "cifar100": ("cifar10", "tiny-imagenet", "emnist-letters"),
    "tiny-imagenet": ("cifar100", "cifar10", "emnist-letters"),
    "emnist-digits": ("emnist-letters", "cifar10"),
    "emnist-letters": ("emnist-digits", "cifar10"),
}
"""Out-of-distribution sets for each data set, near ones first."""

SYNTHETIC = ("noise", "constant", "scrambled")
"""Kinds of synthetic images."""

_LUMA = (0.299, 0.587, 0.114)


def match_format(ood: Images, in_distribution: Images) -> Images:
    """Convert out-of-distribution images to the size, channels and standardization of an in-distribution split.

    Images are resized bilinearly (with antialiasing); gray images are repeated to three channels, color images are
    converted to luma (ITU-R BT.601). Labels are unchanged.

    Args:
        ood: Out-of-distribution images.
        in_distribution: Split whose format is matched.

    Raises:
        ValueError: Unless both are uint8 images of one or three channels.
    """
    for split in (ood, in_distribution):
        if split.pixels.dtype != torch.uint8 or split.pixels.shape[1] not in (1, 3):
            raise ValueError(
                f"expected uint8 images of 1 or 3 channels, got {split.pixels.dtype} {tuple(split.pixels.shape)}"
            )
    channels, *size = in_distribution.pixels.shape[1:]
    parts = []
    for images in ood.images.split(1000):
        x = images.float()
        if x.shape[1] != channels:
            x = (
                x.expand(-1, 3, -1, -1)
                if channels == 3
                else torch.einsum("nchw,c->nhw", x, torch.tensor(_LUMA))[:, None]
            )
        if list(x.shape[2:]) != size:
            x = interpolate(x, size, mode="bilinear", antialias=True)
        parts.append(x.round().clamp(0, 255).to(torch.uint8))
    return replace(in_distribution, pixels=torch.cat(parts), labels=ood.labels, rows=None)


def synthetic(in_distribution: Images, kind: str, *, generator: torch.Generator) -> Images:
    """Generate as many synthetic images as a split has, with label −1.

    Args:
        in_distribution: Split of uint8 images.
        kind: `noise`, independent uniform values; `constant`, one random color per image; `scrambled`, the split's
            images with the pixels of each in random order.
        generator: CPU generator.

    Raises:
        ValueError: For an unknown kind.
    """
    n, channels, height, width = len(in_distribution), *in_distribution.pixels.shape[1:]
    if kind == "noise":
        pixels = _uniform((n, channels, height, width), generator)
    elif kind == "constant":
        pixels = _uniform((n, channels, 1, 1), generator).expand(-1, -1, height, width)
    elif kind == "scrambled":
        order = torch.rand(n, 1, height * width, generator=generator).argsort(dim=2)
        pixels = (
            in_distribution.images.flatten(2).gather(2, order.expand(-1, channels, -1)).view(n, channels, height, width)
        )
    else:
        raise ValueError(f"expected one of {', '.join(SYNTHETIC)}, got {kind!r}")
    return replace(in_distribution, pixels=pixels, labels=torch.full((n,), -1), rows=None)


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)
