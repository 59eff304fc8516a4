"""Residual networks for small images with 6n + 2 layers and an exit after each of their three stages.

    x ← relu(x + F(x)),   F two 3×3 convolutions with batch normalization

The last exit is the paper's network. Where a stage halves the image and doubles the channels, the shortcut takes every
second pixel and pads the new channels with zeros, so that it has no weights (option A).
He, Zhang, Ren, Sun, CVPR 2016, section 4.2.
"""

from torch import Tensor, nn
from torch.nn import functional

from suffice.network import Exit, ExitNetwork

_WIDTHS = (16, 32, 64)


class Residual(nn.Module):
    """Residual block of two convolutions: (N, C, H, W) → (N, width, H / stride, W / stride)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride, self.added = stride, width - channels
        self.first = _convolution(channels, width, stride)
        self.second = _convolution(width, width)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return non-negative feature maps."""
        shortcut = x
        if self.added:
            shortcut = functional.pad(x[..., :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))
        out: Tensor = self.relu(shortcut + self.second(self.relu(self.first(x))))
        return out


def resnet(depth: int, num_classes: int, in_channels: int = 3) -> ExitNetwork:
    """Build a residual network with three exits.

    Args:
        depth: Number of layers with weights, 6n + 2 with n ≥ 1; the paper has 20, 32, 44, 56 and 110.
        num_classes: Number of classes C.
        in_channels: Channels of the images (N, in_channels, H, W); H and W are halved before the second and the third
            stage.

    Raises:
        ValueError: If the depth is not 6n + 2.

    Example:
        >>> import torch
        >>> import suffice
        >>> network = suffice.models.resnet(8, num_classes=10)
        >>> [tuple(logits.shape) for logits in network(torch.zeros(2, 3, 8, 8))]
        [(2, 10), (2, 10), (2, 10)]
    """
    blocks, remainder = divmod(depth - 2, 6)
    if remainder or blocks < 1:
        raise ValueError(f"expected a depth of 6n + 2, such as 20, 32, 44, 56 or 110, got {depth}")
    stages, exits = [], []
    channels = _WIDTHS[0]
    for k, width in enumerate(_WIDTHS):
        stem = [] if k else [_convolution(in_channels, channels), nn.ReLU()]
        first = Residual(channels, width, stride=2 if k else 1)
        stages.append(nn.Sequential(*stem, first, *(Residual(width, width, stride=1) for _ in range(blocks - 1))))
        exits.append(Exit(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(width, num_classes)))
        channels = width
    return ExitNetwork(stages, exits)


def _convolution(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width))
