"""Tokenizer of a bundle, so that texts can be answered where there is no transformers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from suffice.deploy.graphs.values import TOKENS, Value

FILE = "tokenizer.json"
"""Name of the file, in the format of the package tokenizers."""

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""Names of the inputs that it makes."""

_LONGEST = 1_000_000
"""Numbers of tokens from which on transformers states that a tokenizer has no limit."""


@runtime_checkable
class _Saved(Protocol):
    """Tokenizer of the package tokenizers."""

    def to_str(self, pretty: bool = False) -> str:
        """Return the tokenizer as JSON."""


@dataclass(frozen=True)
class Tokenizer:
    """Tokenizer as a bundle holds it.

    Attributes:
        payload: Bytes of its file.
        pad_id: Token of padding.
        pad_type_id: Type of a token of padding.
        left: Whether padding is on the left.
        longest: Greatest number of tokens of a text that it states, or None.
    """

    payload: bytes
    pad_id: int
    pad_type_id: int
    left: bool
    longest: int | None

    @classmethod
    def of(cls, tokenizer: object) -> "Tokenizer":
        """Return the tokenizer in an argument of `export`.

        Args:
            tokenizer: Fast tokenizer of transformers, or a tokenizer of the package tokenizers.

        Raises:
            TypeError: For anything else, and for a tokenizer of transformers that is written in Python.
        """
        backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
        if not isinstance(backend, _Saved):
            raise TypeError(
                f"expected a fast tokenizer of transformers, or one of tokenizers, got {type(tokenizer).__name__}; "
                "AutoTokenizer.from_pretrained(…, use_fast=True) loads one"
            )
        content = json.loads(backend.to_str())
        padding, truncation = (content.pop(name, None) or {} for name in ("padding", "truncation"))
        content |= {"padding": None, "truncation": None}  # as another call may have left them
        pad_id = getattr(tokenizer, "pad_token_id", None)
        longest = getattr(tokenizer, "model_max_length", truncation.get("max_length"))
        return cls(
            json.dumps(content, ensure_ascii=False).encode(),
            int(padding.get("pad_id", 0) if pad_id is None else pad_id),
            int(getattr(tokenizer, "pad_token_type_id", padding.get("pad_type_id", 0))),
            str(getattr(tokenizer, "padding_side", padding.get("direction", "right"))).lower() == "left",
            None if longest is None or longest >= _LONGEST else int(longest),
        )

    def check_inputs(self, inputs: Sequence[Value]) -> None:
        """Raise a ValueError unless these are inputs that the tokenizer makes."""
        for value in inputs:
            if value.name not in INPUTS or value.shape[1:] != (TOKENS,):
                raise ValueError(
                    f"expected inputs among {list(INPUTS)} of any number of tokens for a tokenizer, got {value.name!r} "
                    f"({', '.join(map(str, value.shape))}); export without tokenizer=…"
                )
        if INPUTS[0] not in [value.name for value in inputs]:
            raise ValueError(f"expected the input {INPUTS[0]!r} for a tokenizer, got none; export without tokenizer=…")

    def entries(self) -> dict[str, Any]:
        """Return the entries of a manifest, besides the checksum of the file."""
        return {
            "pad_id": self.pad_id,
            "pad_type_id": self.pad_type_id,
            "side": "left" if self.left else "right",
            "longest": self.longest,
        }
