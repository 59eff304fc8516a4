"""Building models of the `transformers` library from configurations, without a download."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from torch import nn

from tests.gauntlet.family import CLASSES, Family
from tests.gauntlet.inputs import FIRST, LAST, PAD, VOCABULARY, Inputs, text

SPREAD = 0.2
"""Standard deviation of initial weights: with some thirty inputs to a unit, its values neither vanish nor grow."""

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "initializer_range": SPREAD,
}
"""Names of sizes that most configurations share."""

TOKENS: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "pad_token_id": PAD,
    "bos_token_id": FIRST,
    "eos_token_id": LAST,
    "num_labels": CLASSES,
}


def builder(model: str, config: str, settings: Mapping[str, Any]) -> Callable[[], nn.Module]:
    """Return a function that builds a model with random weights."""

    def build() -> nn.Module:
        library = import_module("transformers")
        module: nn.Module = getattr(library, model)(getattr(library, config)(**settings))
        return module

    return build


def text_family(
    name: str,
    prefix: str,
    at: tuple[str, ...],
    group: str = "text",
    sizes: Mapping[str, Any] = SIZES,
    layer: str = "",
    **settings: Any,
) -> Family:
    """Return a family of text classifiers, `{prefix}ForSequenceClassification`."""
    build = builder(f"{prefix}ForSequenceClassification", f"{prefix}Config", {**TOKENS, **sizes, **settings})
    return Family(name, group, build, text, at, layer=layer)


def image_family(
    name: str,
    prefix: str,
    at: tuple[str, ...],
    inputs: Inputs,
    *,
    dropout: Mapping[str, Any] | None = None,
    layer: str = "",
    **settings: Any,
) -> Family:
    """Return a family of image classifiers, `{prefix}ForImageClassification`."""
    build = builder(f"{prefix}ForImageClassification", f"{prefix}Config", {"num_labels": CLASSES, **settings})
    return Family(name, "images", build, inputs, at, dropout or {}, layer)


def is_hub(family: Family) -> bool:
    """Return whether a family is one of the `transformers` library."""
    return family.group != "hand-written"
