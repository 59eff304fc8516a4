"""Small convolutional reference network with three exits, batch normalization and dropout.

It trains in seconds on two cores and contains each kind of layer that the library has to handle.
"""

from torch import Tensor, nn

from suffice.network import Exit, ExitNetwork


class PooledFeatures(nn.Module):
    """Average pooling to 2 × 2, a hidden layer and dropout: (N, C, H, W) → φ (N, D)."""

    def __init__(self, channels: int, width: int, dropout: float) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.hidden = nn.Linear(4 * channels, width)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, state: Tensor) -> Tensor:
        """Return the features φ (N, D) of feature maps (N, C, H, W)."""
        phi: Tensor = self.dropout(self.relu(self.hidden(self.pool(state).flatten(1))))
        return phi


def convnet(
    num_classes: int,
    in_channels: int = 1,
    widths: tuple[int, ...] = (8, 16, 32),
    features: int = 64,
    dropout: float = 0.1,
) -> ExitNetwork:
    """Build a convolutional network for small images with an exit after each stage.

    Args:
        num_classes: Number of classes C.
        in_channels: Channels of the images (N, in_channels, H, W); H and W are halved after each stage but the last.
        widths: Channels of each stage; their number is that of the stages and exits.
        features: Dimension D of φ at every exit.
        dropout: Dropout rate after each stage and before each classifier.

    Example:
        >>> import torch
        >>> import suffice
        >>> network = suffice.models.convnet(num_classes=10, widths=(4, 8))
        >>> [tuple(logits.shape) for logits in network(torch.zeros(2, 1, 8, 8))]
        [(2, 10), (2, 10)]
    """
    stages: list[nn.Module] = []
    channels = in_channels
    for k, width in enumerate(widths):
        down = [nn.MaxPool2d(2)] if k else []
        blocks = [*_block(channels, width), *_block(width, width)]
        stages.append(nn.Sequential(*down, *blocks, nn.Dropout(dropout)))
        channels = width
    exits = [Exit(PooledFeatures(w, features, dropout), nn.Linear(features, num_classes)) for w in widths]
    return ExitNetwork(stages, exits)


def _block(channels: int, width: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
