"""A small vision transformer with exits after chosen blocks.

    x ← x + attention(norm(x)),   x ← x + mlp(norm(x))        tokens (N, T, D), the class token first

Every exit normalises the class token and classifies it, as the last one does.
Dosovitskiy et al., ICLR 2021, with the normalisation before each part.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from suffice.models.layout import ends
from suffice.network import Exit, ExitNetwork


class Tokens(nn.Module):
    """Images to tokens: patches, a class token before them, and where each is: (N, C, H, W) → (N, T, D)."""

    def __init__(self, image_size: int, patch_size: int, in_channels: int, width: int, dropout: float) -> None:
        super().__init__()
        patches = (image_size // patch_size) ** 2
        self.patch = nn.Conv2d(in_channels, width, kernel_size=patch_size, stride=patch_size)
        self.first = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1 + patches, width), std=0.02))
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Tokens of a batch."""
        patches = self.patch(images).flatten(2).transpose(1, 2)
        tokens: Tensor = self.dropout(
            torch.cat([self.first.expand(len(images), -1, -1), patches], dim=1) + self.position
        )
        return tokens


class Block(nn.Module):
    """Attention between the tokens, then a hidden layer on each of them."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.before_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (N, T, D) after the block."""
        normed = self.before_attention(tokens)
        attended, _ = self.attention(normed, normed, normed, need_weights=False)
        tokens = tokens + self.dropout(attended)
        out: Tensor = tokens + self.dropout(self.mlp(self.before_mlp(tokens)))
        return out


class ClassToken(nn.Module):
    """The first token, normalised: (N, T, D) → φ (N, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """φ (N, D) of tokens."""
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
    """A vision transformer.

    Args:
        num_classes: C.
        image_size: height and width of the images (N, in_channels, image_size, image_size).
        patch_size: of the patches that become tokens; a divisor of the image's size.
        in_channels: channels of the images.
        width: D, of the tokens and of φ.
        depth: number of blocks.
        heads: of each attention; a divisor of the width.
        exits_after: numbers of blocks, rising, after which there are earlier exits; the last exit is after all.
        dropout: rate on the tokens, and on what each part of a block adds to them.

    Raises:
        ValueError: if patches do not fill the image, or `exits_after` does not rise below `depth`.
    """
    if image_size % patch_size:
        raise ValueError(f"expected patches that fill the image, got {patch_size} × {patch_size} of {image_size}")
    stages: list[nn.Module] = []
    for start, stop in pairwise(ends(exits_after, depth, "blocks")):
        tokens = [] if start else [Tokens(image_size, patch_size, in_channels, width, dropout)]
        stages.append(nn.Sequential(*tokens, *(Block(width, heads, dropout) for _ in range(start, stop))))
    return ExitNetwork(stages, [Exit(ClassToken(width), nn.Linear(width, num_classes)) for _ in stages])
