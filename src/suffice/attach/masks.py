"""Masks of the tokens that count, made from the inputs of a model and carried in the state.

mask (N, T)   True where a token counts, False for padding
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from suffice.network import State, batch_size
from suffice.storage.parts import LARGEST, Parts

Tokens = Literal["tokens", "class token", "last token"]

MASK = "token mask"
"""Key of the mask (N, T) in a state."""

MaskKind = Literal["true", "false", "other", "length"]


@dataclass(frozen=True)
class TokenMask:
    """Mask of the tokens that count, from the inputs of a model.

    Attributes:
        key: Key of the input that marks them, None if the input is a tensor.
        kind: "true": where the input is not 0; "false": where it is 0; "other": where it differs from `value`;
            "length": up to a number of tokens, the input itself.
        value: Value that marks padding, for "other".
    """

    key: str | None
    kind: MaskKind
    value: int = 0

    def __call__(self, inputs: State, tokens: int) -> Tensor:
        """Return the mask (N, T), bool, for `tokens` tokens T."""
        if self.key is not None and self.key not in inputs:  # an optional mask: all tokens count
            return torch.ones(batch_size(inputs), tokens, dtype=torch.bool)
        source: Tensor = inputs if self.key is None else inputs[self.key]
        match self.kind:
            case "true":
                return source.bool()
            case "false":
                return ~source.bool()
            case "other":
                return source != self.value
        return torch.arange(tokens, device=source.device) < source.reshape(-1, 1)

    @classmethod
    def from_parts(cls, parts: Parts) -> "TokenMask":
        """Read a mask from an artifact."""
        key = None if parts.none("key") else parts.text("key")
        return cls(key, parts.choice("kind", get_args(MaskKind)), parts.count("value", least=-LARGEST))


class WithMask(nn.Module):
    """Stage with the mask of the tokens in its state.

    Args:
        stage: Stage whose states are dicts.
        mask: Mask that the first stage makes from the inputs; None passes it on.
        tokens: Number of tokens T, for a mask of lengths, by the tensor of this key in the state behind the stage.
    """

    def __init__(self, stage: nn.Module, mask: TokenMask | None, tokens: str | None) -> None:
        super().__init__()
        self.stage, self.mask, self.tokens = stage, mask, tokens

    def forward(self, state: State) -> State:
        """Return the state behind the stage, with the mask."""
        result = self.stage(state)
        tensor = result[self.tokens]
        mask = state[MASK] if self.mask is None else self.mask(state, tensor.shape[1]).to(tensor.device)
        return {**result, MASK: mask}


def mask_in(network: nn.Module, x: State) -> TokenMask | None:
    """Return the mask by which the exits of a network leave out padding, or else the input "attention_mask" (N, T)."""
    for module in network.modules():
        if isinstance(module, WithMask) and module.mask is not None:
            return module.mask if module.mask.key is None or module.mask.key in x else None
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
