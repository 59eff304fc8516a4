"""Masks of the tokens that count, made from the inputs of a model and carried in the state.

mask (N, T)   True where a token counts, False for padding
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from suffice.network import State, batch_size
from suffice.storage.parts import LARGEST, Parts
from suffice.utils.nest import named_leaves

Tokens = Literal["tokens", "class token", "last token"]

MASK = "token mask"
"""Key of the mask (N, T) in a state."""

MaskKind = Literal["true", "false", "nonnegative", "other", "length", "fraction"]


@dataclass(frozen=True)
class TokenMask:
    """Mask of the tokens that count, from the inputs of a model.

    Attributes:
        key: Key of the input that marks them, or its place in a nest, such as "['text']['mask']" or "[1]"; None if the
            input is a tensor.
        kind: "true": where the input is not 0; "false": where it is 0; "nonnegative": where it is not below 0, as in
            masks that are added to scores; "other": where it differs from `value`; "length": up to a number of tokens,
            the input plus `value`; "fraction": up to a fraction of the tokens.
        value: Value that marks padding, for "other"; number that is added to a length.
    """

    key: str | None
    kind: MaskKind
    value: int = 0

    def __call__(self, inputs: State, tokens: int) -> Tensor:
        """Return the mask (N, T), bool, for `tokens` tokens T."""
        source = self.source(inputs)
        if source is None:  # an optional mask: all tokens count
            return torch.ones(batch_size(inputs), tokens, dtype=torch.bool)
        match self.kind:
            case "true":
                return _by_token(source.bool())
            case "false":
                return _by_token(~source.bool())
            case "nonnegative":
                return _by_token(source >= 0)
            case "other":
                return (source != self.value).flatten(2).any(dim=2) if source.ndim > 2 else source != self.value
            case "fraction":
                lengths = (source * tokens).round()
            case "length":
                lengths = source + self.value
        return torch.arange(tokens, device=source.device) < lengths.reshape(-1, 1)

    def source(self, inputs: State) -> Tensor | None:
        """Return the input that marks the tokens, or None if the inputs have none."""
        return next((tensor for key, tensor in keyed_tensors(inputs) if key == self.key), None)

    @classmethod
    def from_parts(cls, parts: Parts) -> "TokenMask":
        """Read a mask from an artifact."""
        key = None if parts.none("key") else parts.text("key")
        return cls(key, parts.choice("kind", get_args(MaskKind)), parts.count("value", least=-LARGEST))


def keyed_tensors(inputs: State) -> Iterator[tuple[str | None, Tensor]]:
    """Yield the tensors of a nest by the `key` of a mask: a plain key of a mapping, or a place in a nest."""
    plain = {f"[{key!r}]": key for key in inputs if isinstance(key, str)} if isinstance(inputs, Mapping) else {}
    for place, leaf in named_leaves(inputs):
        if isinstance(leaf, Tensor):
            yield plain.get(place, place) or None, leaf


def _by_token(flags: Tensor) -> Tensor:
    """Reduce flags (N, T), (N, T, 1) or, for keys of attention, (N, …, T), to (N, T)."""
    if flags.shape[-1] == 1 and flags.ndim > 2:
        return flags.flatten(1)
    return flags.reshape(flags.shape[0], -1, flags.shape[-1]).any(dim=1)


class WithMask(nn.Module):
    """Stage with the mask of the tokens in its state.

    Args:
        stage: Stage whose states are dicts.
        mask: Mask that the first stage makes from the inputs; None passes it on.
        tokens: Number of tokens T, for a mask of lengths, by the tensor of this key in the state behind the stage.

    Attributes:
        dimension: Dimension of the tokens in that tensor, 2 for (N, C, T).
    """

    def __init__(self, stage: nn.Module, mask: TokenMask | None, tokens: str | None) -> None:
        super().__init__()
        self.stage, self.mask, self.tokens = stage, mask, tokens
        self.dimension = 1

    def forward(self, state: State) -> State:
        """Return the state behind the stage, with the mask."""
        result = self.stage(state)
        tensor = result[self.tokens]
        mask = state[MASK] if self.mask is None else self.mask(state, tensor.shape[self.dimension]).to(tensor.device)
        return {**result, MASK: mask}


def mask_in(network: nn.Module, x: State) -> TokenMask | None:
    """Return the mask by which the exits of a network leave out padding, or else the input "attention_mask" (N, T)."""
    for module in network.modules():
        if isinstance(module, WithMask) and module.mask is not None:
            return None if module.mask.source(x) is None else module.mask
    named = x.get("attention_mask") if isinstance(x, Mapping) else None
    return TokenMask("attention_mask", "true") if isinstance(named, Tensor) and named.ndim == 2 else None


@dataclass(frozen=True)
class Reading:
    """Pooling of a model's last tokens by the model itself.

    Attributes:
        pooling: Pooling that reads the same tokens.
        mask: Mask of the tokens that count; None if all do.
    """

    pooling: Tokens
    mask: TokenMask | None = None


def last_index(counted: Tensor) -> Tensor:
    """Return the position (N,) of the last True in each row of a mask (N, T)."""
    positions = torch.arange(counted.shape[1], device=counted.device)
    return torch.where(counted, positions, -1).amax(dim=1).clamp_min(0)
