"""Small vision transformer with exits after chosen blocks.

    x ← x + attention(norm(x)),   x ← x + mlp(norm(x))        tokens (N, T, D), the class token first

Every exit normalizes and classifies the class token, as the last one does.
Dosovitskiy et al., ICLR 2021, with the normalization before attention and MLP.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from suffice.models.layout import stage_bounds
from suffice.network import Exit, ExitNetwork


class Tokens(nn.Module):
    """Patch embedding with a class token and position embeddings: (N, C, H, W) → (N, T, D)."""

    def __init__(self, image_size: int, patch_size: int, in_channels: int, width: int, dropout: float) -> None:
        super().__init__()
        patches = (image_size // patch_size) ** 2
        self.patch = nn.Conv2d(in_channels, width, kernel_size=patch_size, stride=patch_size)
        self.first = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1 + patches, width), std=0.02))
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Return the tokens of a batch of images."""
        patches = self.patch(images).flatten(2).transpose(1, 2)
        tokens: Tensor = self.dropout(
            torch.cat([self.first.expand(images.shape[0], -1, -1), patches], dim=1) + self.position
        )
        return tokens


class Block(nn.Module):
    """Transformer block: self-attention, then an MLP on each token."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.before_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens (N, T, D) after the block."""
        normed = self.before_attention(tokens)
        attended, _ = self.attention(normed, normed, normed, need_weights=False)
        tokens = tokens + self.dropout(attended)
        out: Tensor = tokens + self.dropout(self.mlp(self.before_mlp(tokens)))
        return out


class ClassToken(nn.Module):
    """Normalized class token: (N, T, D) → φ (N, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the features φ (N, D) of tokens."""
        phi: Tensor = self.norm(tokens[:, 0])
        return phi


def vit(
    num_classes: int,
    image_size: int = 32,
    patch_size: int = 4,
    in_channels: int = 3,
    width: int = 192,
    depth: int = 9,
    heads: int = 3,
    exits_after: Sequence[int] = (3, 6),
    dropout: float = 0.0,
) -> ExitNetwork:
    """Build a vision transformer.

    Args:
        num_classes: Number of classes C.
        image_size: Height and width of the images (N, in_channels, image_size, image_size).
        patch_size: Height and width of a patch; a divisor of the image size.
        in_channels: Channels of the images.
        width: Dimension D of the tokens and of φ.
        depth: Number of blocks.
        heads: Number of attention heads; a divisor of the width.
        exits_after: Numbers of blocks, in increasing order, after which there are earlier exits; the last exit is after
            all blocks.
        dropout: Dropout rate on the embedded tokens and on the outputs of attention and MLP.

    Raises:
        ValueError: If the patches do not tile the image, or `exits_after` does not increase within 1 to `depth` − 1.

    Example:
        >>> import torch
        >>> import suffice
        >>> network = suffice.models.vit(num_classes=10, image_size=16, width=24, depth=3, exits_after=(1, 2))
        >>> [tuple(logits.shape) for logits in network(torch.zeros(2, 3, 16, 16))]
        [(2, 10), (2, 10), (2, 10)]
    """
    if image_size % patch_size:
        raise ValueError(f"expected patches that tile the image, got {patch_size} × {patch_size} of {image_size}")
    stages: list[nn.Module] = []
    for start, stop in pairwise(stage_bounds(exits_after, depth, "blocks")):
        tokens = [] if start else [Tokens(image_size, patch_size, in_channels, width, dropout)]
        stages.append(nn.Sequential(*tokens, *(Block(width, heads, dropout) for _ in range(start, stop))))
    return ExitNetwork(stages, [Exit(ClassToken(width), nn.Linear(width, num_classes)) for _ in stages])
