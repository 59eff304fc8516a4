"""MSDNet: features of several scales side by side, so that the coarse ones, which classify, are there from the start.

    x_s ← [x_s, down(x_{s−1}), same(x_s)]        for each scale s, from fine to coarse, in every layer

where `down` has stride 2 and `same` stride 1, each a bottleneck and a 3×3 convolution. Every exit classifies the
coarsest scale. The finest scale is dropped after every so many layers, and the channels are halved there.
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
"""D of the exits for small images; for large ones it is the width of the coarsest scale."""


@dataclass(frozen=True)
class MSDNetConfig:
    """Size of an MSDNet.

    Attributes:
        stem: "small" images keep their size in the first convolution, "large" ones are reduced by 4.
        channels: of the finest scale after the stem.
        growth: channels that a layer adds to the finest scale, an even number.
        factors: channels of each scale as a multiple of the finest; as many scales.
        layers: number of layers of each block; as many exits.

    Raises:
        ValueError: for an odd growth.
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
        """How many scales a layer, counted from 0 through all blocks, puts out."""
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
"""The papers' networks by name."""


class Stem(nn.Module):
    """Images to feature maps, each scale from the one before: (N, C, H, W) → a list, fine to coarse."""

    def __init__(self, scales: Sequence[nn.Module]) -> None:
        super().__init__()
        self.scales = nn.ModuleList(scales)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps of every scale."""
        maps = [images]
        for scale in self.scales:
            maps.append(scale(maps[-1]))
        return maps[1:]


class Scale(nn.Module):
    """One scale of a layer: what it had, what comes down from the finer scale (if any), and its own new features."""

    def __init__(self, same: nn.Module, down: nn.Module | None) -> None:
        super().__init__()
        self.same = same
        self.down = down

    def forward(self, finer: Tensor | None, own: Tensor) -> Tensor:
        """Channels concatenated, (N, C + growth, H, W)."""
        below = [] if self.down is None else [self.down(finer)]
        return torch.cat([own, *below, self.same(own)], dim=1)


class Layer(nn.Module):
    """All scales of a layer; one scale fewer than it is given drops the finest."""

    def __init__(self, scales: Sequence[Scale]) -> None:
        super().__init__()
        self.scales = nn.ModuleList(scales)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Feature maps of every scale that stays."""
        ladder = [None, *maps][-len(self.scales) - 1 :]
        return [scale(finer, own) for scale, (finer, own) in zip(self.scales, pairwise(ladder), strict=True)]


class Transition(nn.Module):
    """Fewer channels at every scale."""

    def __init__(self, scales: Sequence[nn.Module]) -> None:
        super().__init__()
        self.scales = nn.ModuleList(scales)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Feature maps of the same sizes."""
        return [scale(own) for scale, own in zip(self.scales, maps, strict=True)]


class CoarsestFeatures(nn.Sequential):
    """Two convolutions of stride 2 on the coarsest scale, averaged over what is left: state → φ (N, D)."""

    def __init__(self, channels: int, features: int) -> None:
        first, second = _convolution(channels, features, stride=2), _convolution(features, features, stride=2)
        super().__init__(first, second, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, maps: list[Tensor]) -> Tensor:
        """φ (N, D) of the feature maps of every scale."""
        phi = maps[-1]
        for module in self:
            phi = module(phi)
        return phi


def msdnet(setting: str | MSDNetConfig, num_classes: int, in_channels: int = 3) -> ExitNetwork:
    """A multi-scale dense network.

    Args:
        setting: one of `SETTINGS`, "cifar-small", "cifar-medium", "cifar-large" (4, 6 and 8 exits) or "imagenet-4",
            "imagenet-6", "imagenet-7" (5 exits); or a `MSDNetConfig` of your own.
        num_classes: C.
        in_channels: channels of the images (N, in_channels, H, W).

    Raises:
        ValueError: for a name that is not there.
    """
    if isinstance(setting, str):
        if setting not in SETTINGS:
            raise ValueError(f"expected one of {sorted(SETTINGS)} or a Setting, got {setting!r}")
        setting = SETTINGS[setting]
    stages, exits = [], []
    width, done = setting.channels, 0
    for count in setting.layers:
        modules: list[nn.Module] = [] if done else [_stem(setting, in_channels)]
        for layer in range(done, done + count):
            added, width = _layer(setting, layer, width)
            modules.extend(added)
        done += count
        stages.append(nn.Sequential(*modules))
        coarsest = width * setting.factors[-1]
        features = _SMALL_FEATURES if setting.stem == "small" else coarsest
        exits.append(Exit(CoarsestFeatures(coarsest, features), nn.Linear(features, num_classes)))
    return ExitNetwork(stages, exits)


def load_public_weights(network: ExitNetwork, weights: Mapping[str, Tensor]) -> None:
    """Take over weights that were trained with the public PyTorch implementation, kalviny/MSDNet-PyTorch.

    Args:
        network: an `msdnet` of the same setting; changed in place, or not at all if this raises.
        weights: its state dict, `checkpoint["state_dict"]`; names may begin with "module.".

    Raises:
        ValueError: if a weight is missing, has another shape, or has no place in the network.
    """
    renamed = {own_name(name): tensor for name, tensor in weights.items()}
    own = network.state_dict()
    # Files older than PyTorch 0.4.1 lack these counters, which nothing uses.
    missing = {name for name in own if not name.endswith("num_batches_tracked")} - set(renamed)
    wrong = {name for name in renamed if name not in own or own[name].shape != renamed[name].shape}
    if missing or wrong:
        example = min(missing or wrong)
        raise ValueError(
            f"expected the weights of this setting in the layout of kalviny/MSDNet-PyTorch, got {len(missing)} "
            f"missing and {len(wrong)} without a place of their shape, for example {example!r}; build the network "
            "with the setting that was trained, and pass the state dict itself"
        )
    network.load_state_dict(renamed)


def own_name(public: str) -> str:
    """Name in an `msdnet` of a weight of the public implementation."""
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


def _stem(setting: MSDNetConfig, in_channels: int) -> Stem:
    first, *others = [setting.channels * factor for factor in setting.factors]
    if setting.stem == "small":
        finest = _convolution(in_channels, first)
    else:
        reduced = nn.Conv2d(in_channels, first, kernel_size=7, stride=2, padding=3)
        finest = nn.Sequential(
            reduced, nn.BatchNorm2d(first), nn.ReLU(), nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        )
    coarser = [_convolution(finer, own, stride=2) for finer, own in pairwise([first, *others])]
    return Stem([finest, *coarser])


def _layer(setting: MSDNetConfig, layer: int, width: int) -> tuple[list[nn.Module], int]:
    """A layer with, if it drops a scale, the transition after it; and the width (channels / factor) after both."""
    coming, staying = setting.scales(max(0, layer - 1)), setting.scales(layer)
    finest = len(setting.factors) - staying
    scales = [
        _scale(setting, s, width, alone=s == finest and coming == staying) for s in range(finest, len(setting.factors))
    ]
    width += setting.growth
    if coming == staying:
        return [Layer(scales)], width
    transition = [_convolution(width * factor, width // 2 * factor, size=1) for factor in setting.factors[finest:]]
    return [Layer(scales), Transition(transition)], width // 2


def _scale(setting: MSDNetConfig, s: int, width: int, alone: bool) -> Scale:
    """Scale s of a layer; alone where there is no finer one to come down from."""
    own, growth = setting.factors[s], setting.growth * setting.factors[s]
    if alone:
        return Scale(_bottleneck(width * own, growth, own), None)
    finer = setting.factors[s - 1]
    down = _bottleneck(width * finer, growth // 2, finer, stride=2)
    return Scale(_bottleneck(width * own, growth // 2, own), down)


def _bottleneck(channels: int, out: int, factor: int, stride: int = 1) -> nn.Sequential:
    """A 1×1 convolution to at most `factor` times the width put out, then a 3×3 one."""
    inner = min(channels, factor * out)
    return nn.Sequential(*_convolution(channels, inner, size=1), *_convolution(inner, out, stride=stride))


def _convolution(channels: int, out: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(channels, out, kernel_size=size, stride=stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU())
