"""Multi-scale dense network (MSDNet), which has coarse features for classification from the first layer on.

    x_s ← [x_s, down(x_{s−1}), same(x_s)]        for each scale s, from fine to coarse, in every layer

where `down` has stride 2 and `same` stride 1, each a bottleneck and a 3×3 convolution. Every exit classifies the
coarsest scale. The finest scale is dropped at regular intervals of layers, where the channels are also halved.
Huang et al., ICLR 2018 (arXiv 1703.09844), with the settings of Meronen et al. 2024.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from suffice.network import Exit, ExitNetwork

_SMALL_FEATURES = 128
"""Dimension D of φ for small images; for large ones it is the width of the coarsest scale."""


@dataclass(frozen=True)
class MSDNetConfig:
    """Size of an MSDNet.

    Attributes:
        stem: "small" for a stem that keeps the size of the images, "large" for one that reduces it by 4.
        channels: Channels of the finest scale after the stem.
        growth: Channels that a layer adds to the finest scale, an even number.
        factors: Channels of each scale as a multiple of the finest; their number is that of the scales.
        layers: Number of layers of each block; their number is that of the exits.

    Raises:
        ValueError: If the growth is odd.
    """

    stem: Literal["small", "large"]
    channels: int
    growth: int
    factors: tuple[int, ...]
    layers: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.growth % 2:
            raise ValueError(f"expected an even growth, half from each of two scales, got {self.growth}")

    def scales(self, layer: int) -> int:
        """Return the number of scales that a layer outputs; layers are counted from 0 through all blocks."""
        interval = math.ceil(sum(self.layers) / len(self.factors))
        return len(self.factors) - layer // interval


def _cifar(blocks: int) -> MSDNetConfig:
    return MSDNetConfig("small", channels=16, growth=6, factors=(1, 2, 4), layers=tuple(range(1, blocks + 1)))


def _imagenet(step: int) -> MSDNetConfig:
    return MSDNetConfig("large", channels=32, growth=16, factors=(1, 2, 4, 4), layers=(step,) * 5)


SETTINGS = {
    "cifar-small": _cifar(4),
    "cifar-medium": _cifar(6),
    "cifar-large": _cifar(8),
    "imagenet-4": _imagenet(4),
    "imagenet-6": _imagenet(6),
    "imagenet-7": _imagenet(7),
}
"""Configurations of the papers' networks by name."""


class Stem(nn.Module):
    """Stem that computes each scale from the one before: (N, C, H, W) → list of feature maps, fine to coarse."""

    def __init__(self, scales: Sequence[nn.Module]) -> None:
        super().__init__()
        self.scales = nn.ModuleList(scales)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps of every scale."""
        maps = [images]
        for scale in self.scales:
            maps.append(scale(maps[-1]))
        return maps[1:]


class Scale(nn.Module):
    """Scale of a layer: its previous features, new ones from the finer scale (if any), and new ones from itself."""

    def __init__(self, same: nn.Module, down: nn.Module | None) -> None:
        super().__init__()
        self.same = same
        self.down = down

    def forward(self, finer: Tensor | None, current: Tensor) -> Tensor:
        """Return the concatenated channels, (N, C + growth, H, W)."""
        from_finer = [] if self.down is None else [self.down(finer)]
        return torch.cat([current, *from_finer, self.same(current)], dim=1)


class Layer(nn.Module):
    """Layer with all its scales; one scale fewer than its input drops the finest."""

    def __init__(self, scales: Sequence[Scale]) -> None:
        super().__init__()
        self.scales = nn.ModuleList(scales)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Return the feature maps of the remaining scales."""
        inputs = [None, *maps][-len(self.scales) - 1 :]
        return [scale(finer, current) for scale, (finer, current) in zip(self.scales, pairwise(inputs), strict=True)]


class Transition(nn.Module):
    """Reduction of the channels at every scale."""

    def __init__(self, scales: Sequence[nn.Module]) -> None:
        super().__init__()
        self.scales = nn.ModuleList(scales)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Return feature maps of the same height and width."""
        return [scale(current) for scale, current in zip(self.scales, maps, strict=True)]


class CoarsestFeatures(nn.Sequential):
    """Two convolutions of stride 2 on the coarsest scale and average pooling: state → φ (N, D)."""

    def __init__(self, channels: int, features: int) -> None:
        first, second = _convolution(channels, features, stride=2), _convolution(features, features, stride=2)
        super().__init__(first, second, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Return the features φ (N, D) of the feature maps of every scale."""
        phi = maps[-1]
        for module in self:
            phi = module(phi)
        return phi


def msdnet(setting: str | MSDNetConfig, num_classes: int, in_channels: int = 3) -> ExitNetwork:
    """Build a multi-scale dense network.

    Args:
        setting: Name of a configuration in `SETTINGS`, "cifar-small", "cifar-medium", "cifar-large" (4, 6 and 8 exits)
            or "imagenet-4", "imagenet-6", "imagenet-7" (5 exits); or an `MSDNetConfig`.
        num_classes: Number of classes C.
        in_channels: Channels of the images (N, in_channels, H, W).

    Raises:
        ValueError: If the name is unknown.

    Example:
        >>> import torch
        >>> import suffice
        >>> network = suffice.models.msdnet("cifar-small", num_classes=10)
        >>> [tuple(logits.shape) for logits in network(torch.zeros(2, 3, 32, 32))]
        [(2, 10), (2, 10), (2, 10), (2, 10)]
    """
    if isinstance(setting, str):
        if setting not in SETTINGS:
            raise ValueError(f"expected one of {sorted(SETTINGS)} or an MSDNetConfig, got {setting!r}")
        setting = SETTINGS[setting]
    config = setting
    stages, exits = [], []
    width, num_layers = config.channels, 0
    for count in config.layers:
        modules: list[nn.Module] = [] if num_layers else [_stem(config, in_channels)]
        for layer in range(num_layers, num_layers + count):
            new_modules, width = _layer(config, layer, width)
            modules.extend(new_modules)
        num_layers += count
        stages.append(nn.Sequential(*modules))
        coarsest = width * config.factors[-1]
        features = _SMALL_FEATURES if config.stem == "small" else coarsest
        exits.append(Exit(CoarsestFeatures(coarsest, features), nn.Linear(features, num_classes)))
    return ExitNetwork(stages, exits)


def load_public_weights(network: ExitNetwork, weights: Mapping[str, Tensor]) -> None:
    """Load weights that were trained with the public PyTorch implementation, kalviny/MSDNet-PyTorch.

    Args:
        network: An `msdnet` of the same configuration; changed in place, or not at all if this raises.
        weights: State dict of the public implementation, `checkpoint["state_dict"]`; names may start with "module.".

    Raises:
        ValueError: If a weight is missing, is unknown, or has another shape.
    """
    renamed = {convert_name(name): tensor for name, tensor in weights.items()}
    expected = network.state_dict()
    # State dicts older than PyTorch 0.4.1 lack these counters, which are not used.
    missing = {name for name in expected if not name.endswith("num_batches_tracked")} - set(renamed)
    wrong = {name for name in renamed if name not in expected or expected[name].shape != renamed[name].shape}
    if missing or wrong:
        example = min(missing or wrong)
        raise ValueError(
            f"expected the weights of this configuration in the layout of kalviny/MSDNet-PyTorch, got {len(missing)} "
            f"missing and {len(wrong)} unknown or of another shape, for example {example!r}; build the network with "
            "the configuration that was trained, and pass the state dict itself"
        )
    network.load_state_dict(renamed)


def convert_name(public: str) -> str:
    """Convert the name of a weight in the public implementation to its name in an `msdnet`."""
    for pattern, replacement in _NAMES:
        public = re.sub(pattern, replacement, public)
    return public


_NAMES = [
    (r"^module\.", ""),
    (r"^blocks\.(\d+)\.(\d+)\.(?:layers|m)\.", r"stages.\1.\2.scales."),
    (r"^classifier\.(\d+)\.m\.", r"exits.\1.features."),
    (r"^classifier\.(\d+)\.linear\.", r"exits.\1.classifier."),
    (r"\.conv_normal\.", ".same."),
    (r"\.conv_down\.", ".down."),
    (r"\.net\.", "."),
]


def _stem(config: MSDNetConfig, in_channels: int) -> Stem:
    first, *others = [config.channels * factor for factor in config.factors]
    if config.stem == "small":
        finest = _convolution(in_channels, first)
    else:
        reduced = nn.Conv2d(in_channels, first, kernel_size=7, stride=2, padding=3)
        finest = nn.Sequential(
            reduced, nn.BatchNorm2d(first), nn.ReLU(), nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        )
    coarser = [_convolution(finer, width, stride=2) for finer, width in pairwise([first, *others])]
    return Stem([finest, *coarser])


def _layer(config: MSDNetConfig, layer: int, width: int) -> tuple[list[nn.Module], int]:
    """Build a layer and, if it drops a scale, a transition; return them with the new width (channels / factor)."""
    num_scales, scales_before = config.scales(layer), config.scales(max(0, layer - 1))
    finest = len(config.factors) - num_scales
    drops_scale = scales_before != num_scales
    scales = [_scale(config, s, width, has_finer=s > finest or drops_scale) for s in range(finest, len(config.factors))]
    width += config.growth
    if not drops_scale:
        return [Layer(scales)], width
    transition = [_convolution(width * factor, width // 2 * factor, size=1) for factor in config.factors[finest:]]
    return [Layer(scales), Transition(transition)], width // 2


def _scale(config: MSDNetConfig, s: int, width: int, has_finer: bool) -> Scale:
    """Build scale s of a layer; half of its new channels come from the finer scale, if the input has one."""
    factor, growth = config.factors[s], config.growth * config.factors[s]
    if not has_finer:
        return Scale(_bottleneck(width * factor, growth, factor), None)
    finer = config.factors[s - 1]
    down = _bottleneck(width * finer, growth // 2, finer, stride=2)
    return Scale(_bottleneck(width * factor, growth // 2, factor), down)


def _bottleneck(channels: int, out: int, factor: int, stride: int = 1) -> nn.Sequential:
    """Build a 1×1 convolution to at most `factor` times the output width, and a 3×3 convolution."""
    inner = min(channels, factor * out)
    return nn.Sequential(*_convolution(channels, inner, size=1), *_convolution(inner, out, stride=stride))


def _convolution(channels: int, out: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels, out, kernel_size=size, stride=stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU())
