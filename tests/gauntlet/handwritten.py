"""Families of hand-written networks, which a user's own code resembles."""

import torch
from torch import nn

from tests.gauntlet import networks
from tests.gauntlet.family import CLASSES, Family
from tests.gauntlet.inputs import FIRST, LAST, PAD, VOCABULARY, Example, Inputs, images, tensors

GROUP = "hand-written"
PIXELS = images(32, bare=True)
ROWS = tensors(12, bare=True)


def _tokens(generator: torch.Generator, length: int) -> torch.Tensor:
    return torch.randint(LAST + 1, VOCABULARY, (length,), generator=generator)


def _sequence(generator: torch.Generator, length: int) -> Example:
    return {"input_ids": _tokens(generator, length), "lengths": torch.tensor(length)}


def _masked(generator: torch.Generator, length: int) -> Example:
    return {"tokens": _tokens(generator, length), "padded": torch.zeros(length, dtype=torch.bool)}


def _pair(generator: torch.Generator, length: int) -> Example:
    del length
    return {"image": torch.randn(3, 16, 16, generator=generator), "table": torch.randn(6, generator=generator)}


SEQUENCES = Inputs(_sequence, {"input_ids": PAD})
MASKED = Inputs(_masked, {"tokens": FIRST, "padded": 1})
WORDS = Inputs(lambda generator, length: {"input_ids": _tokens(generator, length)}, {"input_ids": PAD}, bare=True)
PAIRS = Inputs(_pair)


def _squeeze_and_excitation() -> nn.Module:
    return nn.Sequential(
        networks.SqueezeExcitation(3, 8), networks.SqueezeExcitation(8, 16), networks.SqueezeExcitation(16, 32),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(32, CLASSES),
    )  # fmt: skip


HANDWRITTEN = [
    Family("Residual network", GROUP, networks.ResidualNet, PIXELS, ("layer1", "layer2")),
    Family("Dense network", GROUP, networks.DenseNet, PIXELS, ("layers.0", "layers.1")),
    Family("Squeeze and excitation", GROUP, _squeeze_and_excitation, PIXELS, ("0", "1")),
    Family("U-shaped network with a classifier", GROUP, networks.UShaped, PIXELS, ("down.1", "up.0")),
    Family("LSTM and GRU, padded", GROUP, lambda: networks.Recurrent(packed=False), SEQUENCES, ("first", "between")),
    Family("LSTM, packed", GROUP, lambda: networks.Recurrent(packed=True), SEQUENCES, ("between",)),
    Family("Mixture of experts", GROUP, networks.MixtureOfExperts, ROWS, ("stem", "norm")),
    Family(
        "Attention pooling with a learned query",
        GROUP,
        networks.QueryPooling,
        PIXELS,
        ("blocks.0", "blocks.1"),
        layer="blocks.1.linear1",
    ),
    Family("MLP-Mixer", GROUP, networks.MLPMixer, PIXELS, ("blocks.0", "blocks.1")),
    Family(
        "`nn.TransformerEncoder` with a padding mask",
        GROUP,
        networks.MaskedTransformer,
        MASKED,
        ("encoder.layers.0", "encoder.layers.1"),
        layer="encoder.layers.1.linear1",
    ),
    Family("Text CNN", GROUP, networks.TextCNN, WORDS, ("first", "second")),
    Family("Image and table", GROUP, networks.TwoInputs, PAIRS, ("image", "joint.1")),
    Family("Modules made in `forward`", GROUP, networks.MadeInForward, PIXELS, ("first", "second")),
    Family("One layer used three times", GROUP, networks.SharedLayer, ROWS, ("layer",)),
    Family("Head protocol of timm", GROUP, networks.HeadProtocol, PIXELS, ("stem", "stages.0")),
    Family(
        "Transformer, sequence first",
        GROUP,
        networks.SequenceFirst,
        PIXELS,
        ("encoder.layers.0", "encoder.layers.1"),
        layer="encoder.layers.1.linear1",
    ),
]
