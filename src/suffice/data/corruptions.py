"""Seeded corruptions of images at five strengths, for inputs with a distribution shift.

Noise, impulse, blur, contrast and brightness are those of CIFAR-10-C and CIFAR-100-C (Hendrycks and Dietterich
2019), with their strengths for 32×32; shift is by 1/16 of the side for each step of strength, into black. Images
are (N, C, H, W), uint8 or floating in [0, 1], and keep their type: corrupt pixels, then standardize.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from suffice.data import augment
from suffice.data.splits.images import Images

Corruption = Callable[[Tensor, int, torch.Generator], Tensor]

_CHUNK = 1000
"""Images that are corrupted at once."""


def corrupt(images: Tensor, kind: str, strength: int, *, generator: torch.Generator) -> Tensor:
    """Return corrupted copies of images.

    Args:
        images: Images (N, C, H, W), uint8 or floating in [0, 1], on the CPU.
        kind: Key of `KINDS`.
        strength: Strength, 1 to 5.
        generator: CPU generator; contrast, brightness and blur are deterministic.

    Raises:
        ValueError: For an unknown kind or strength, or values outside [0, 1].
    """
    if kind not in KINDS or strength not in range(1, 6):
        raise ValueError(f"expected one of {', '.join(KINDS)} at strength 1 to 5, got {kind!r} at {strength!r}")
    if images.dtype != torch.uint8 and len(images) and not 0 <= images.min() <= images.max() <= 1:
        raise ValueError("expected pixels in [0, 1], got others; corrupt before standardizing")
    parts = [_corrupt(part, KINDS[kind], strength, generator) for part in images.split(_CHUNK)]
    return torch.cat(parts) if parts else images.clone()


def corrupt_split(split: Images, kind: str, strength: int, *, generator: torch.Generator) -> Images:
    """Return a split with all images corrupted, in memory; its standardization is unchanged."""
    return replace(split, pixels=corrupt(split.images, kind, strength, generator=generator), rows=None)


def _corrupt(images: Tensor, corruption: Corruption, strength: int, generator: torch.Generator) -> Tensor:
    if images.dtype != torch.uint8:
        return corruption(images, strength, generator).clamp(0, 1)
    changed = corruption(images.float() / 255, strength, generator)
    return (changed.clamp(0, 1) * 255).to(torch.uint8)  # truncated, not rounded, as in the published sets


def _noise(x: Tensor, strength: int, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise."""
    return x + (0.04, 0.06, 0.08, 0.09, 0.10)[strength - 1] * torch.randn(x.shape, generator=generator).to(x)


def _impulse(x: Tensor, strength: int, generator: torch.Generator) -> Tensor:
    """Replace a fraction of the values by 0 or 1 (salt and pepper)."""
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[strength - 1]
    hit = torch.rand(x.shape, generator=generator) < share
    return torch.where(hit, (torch.rand(x.shape, generator=generator) < 0.5).to(x), x)


def _blur(x: Tensor, strength: int, generator: torch.Generator) -> Tensor:
    """Blur by a Gaussian kernel, truncated at four standard deviations; edge pixels are replicated."""
    sigma = (0.4, 0.6, 0.7, 0.8, 1.0)[strength - 1]
    radius = int(4 * sigma + 0.5)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=x.dtype) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, -1)
    across = conv2d(pad(x, (radius, radius, 0, 0), mode="replicate"), kernel[:, :, None], groups=x.shape[1])
    return conv2d(pad(across, (0, 0, radius, radius), mode="replicate"), kernel[:, :, :, None], groups=x.shape[1])


def _contrast(x: Tensor, strength: int, generator: torch.Generator) -> Tensor:
    """Shrink the values toward each channel's mean."""
    mean = x.mean(dim=(2, 3), keepdim=True)
    return mean + (0.75, 0.5, 0.4, 0.3, 0.15)[strength - 1] * (x - mean)


def _brightness(x: Tensor, strength: int, generator: torch.Generator) -> Tensor:
    """Raise the value V = max over channels, at the same hue and saturation."""
    value = x.amax(dim=1, keepdim=True)
    raised = (value + (0.05, 0.1, 0.15, 0.2, 0.3)[strength - 1]).clamp(max=1)
    return torch.where(value > 0, x * (raised / value.clamp(min=1e-6)), raised)


def _shift(x: Tensor, strength: int, generator: torch.Generator) -> Tensor:
    """Shift up, down, left or right."""
    by = max(1, round(x.shape[-1] * strength / 16))
    directions = torch.tensor([[-1, 0], [1, 0], [0, -1], [0, 1]])
    return augment.shift(x, by * directions[torch.randint(4, (len(x),), generator=generator)], margin=by)


KINDS: dict[str, Corruption] = {
    "noise": _noise,
    "impulse": _impulse,
    "blur": _blur,
    "contrast": _contrast,
    "brightness": _brightness,
    "shift": _shift,
}
"""Corruptions by name."""
