"""Inputs that a network was not trained for: other data sets made to fit, and images made of its own.

In `PAIRS` the first stranger of a set is the nearest. Their classes are not always disjoint in meaning
(`docs/data.md`), which bounds what any score can reach.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from suffice.data.images import Images

PAIRS = {
    "cifar10": ("cifar100", "tiny-imagenet", "emnist-letters"),
    "cifar100": ("cifar10", "tiny-imagenet", "emnist-letters"),
    "tiny-imagenet": ("cifar100", "cifar10", "emnist-letters"),
    "emnist-digits": ("emnist-letters", "cifar10"),
    "emnist-letters": ("emnist-digits", "cifar10"),
}
"""Names of strangers for a data set, near ones first."""

SYNTHETIC = ("noise", "constant", "scrambled")

_LUMA = (0.299, 0.587, 0.114)


def match_format(strangers: Images, inside: Images) -> Images:
    """Stranger images in the size, channels and scale of a split; their labels stay their own.

    They are resized bilinearly (with antialiasing) to the height and width; grey becomes three equal channels,
    colour becomes luma (ITU-R BT.601).

    Raises:
        ValueError: if either holds other than uint8 images of one or three channels.
    """
    for split in (strangers, inside):
        if split.pixels.dtype != torch.uint8 or split.pixels.shape[1] not in (1, 3):
            raise ValueError(
                f"expected uint8 images of 1 or 3 channels, got {split.pixels.dtype} {tuple(split.pixels.shape)}"
            )
    channels, *size = inside.pixels.shape[1:]
    parts = []
    for images in strangers.images.split(1000):
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
    return replace(inside, pixels=torch.cat(parts), labels=strangers.labels, rows=None)


def synthetic(inside: Images, kind: str, *, generator: torch.Generator) -> Images:
    """As many images as a split has, of no class: labels are −1.

    Args:
        inside: uint8 images.
        kind: `noise`, every value uniform; `constant`, one colour an image; `scrambled`, the split's images with
            the pixels of each in random order.
        generator: of what is random.

    Raises:
        ValueError: for another kind.
    """
    n, channels, height, width = len(inside), *inside.pixels.shape[1:]
    if kind == "noise":
        pixels = _uniform((n, channels, height, width), generator)
    elif kind == "constant":
        pixels = _uniform((n, channels, 1, 1), generator).expand(-1, -1, height, width)
    elif kind == "scrambled":
        order = torch.rand(n, 1, height * width, generator=generator).argsort(dim=2)
        pixels = inside.images.flatten(2).gather(2, order.expand(-1, channels, -1)).view(n, channels, height, width)
    else:
        raise ValueError(f"expected one of {', '.join(SYNTHETIC)}, got {kind!r}")
    return replace(inside, pixels=pixels, labels=torch.full((n,), -1), rows=None)


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)
