"""Tokenizer of a bundle, which makes inputs of texts. It needs the package tokenizers (extra "text")."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suffice_runtime.bundle.entries import Entries, printable
from suffice_runtime.bundle.graphs import Tensor

Array = NDArray[Any]

FILE = "tokenizer.json"

INPUTS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
"""Attributes of an encoded text by the names of the inputs that are made of them."""


@dataclass(frozen=True)
class TokenizerFile:
    """Tokenizer as a manifest describes it.

    Attributes:
        sha256: Checksum of the file, in hexadecimal digits.
        bytes: Size of the file.
        pad_id: Token of padding.
        pad_type_id: Type of a token of padding.
        left: Whether padding is on the left.
        longest: Greatest number of tokens of a text, or None.
    """

    sha256: str
    bytes: int
    pad_id: int
    pad_type_id: int
    left: bool
    longest: int | None

    @classmethod
    def from_entries(cls, entries: Entries, inputs: Sequence[Tensor]) -> "TokenizerFile":
        """Read the tokenizer of a manifest, for a network with some inputs."""
        entries.choice("file", (FILE,))
        unknown = [tensor.name for tensor in inputs if tensor.name not in INPUTS]
        if unknown:
            raise ValueError(f"expected inputs among {list(INPUTS)} beside a tokenizer, got {printable(unknown)}")
        return cls(
            entries.text("sha256"),
            entries.whole("bytes"),
            entries.whole("pad_id"),
            entries.whole("pad_type_id"),
            entries.choice("side", ("left", "right")) == "left",
            None if entries.none("longest") else entries.whole("longest", 1),
        )


class Tokenizer:
    """Tokenizer of a bundle, which may be used by several threads.

    Args:
        folder: Folder of the bundle.
        described: Its entry in the manifest.
        inputs: Inputs of the network.
        longest: Greatest number of tokens that the graphs are right for, or None.
        check: Whether to compare the file with its checksum.

    Raises:
        FileNotFoundError: If the file is missing.
        ImportError: If the package tokenizers is not installed.
        ValueError: If the file is damaged.
    """

    def __init__(
        self, folder: Path, described: TokenizerFile, inputs: Sequence[Tensor], longest: int | None, check: bool
    ) -> None:
        self._described, self._inputs = described, tuple(inputs)
        self._longest = min((limit for limit in (described.longest, longest) if limit is not None), default=None)
        self._tokenizer = _load(_read(folder / FILE, described, check))

    def encode(self, texts: Sequence[str], start: int = 0) -> dict[str, Array]:
        """Return the inputs of texts, padded to the longest of them.

        Args:
            texts: Texts.
            start: Position of the first one, for messages.

        Raises:
            TypeError: If one is no string.
            ValueError: If one has more tokens than the network takes, or none.
        """
        others = [text for text in texts if not isinstance(text, str)]
        if others:
            raise TypeError(f"expected texts as strings, got {type(others[0]).__name__}")
        found = [self._tokenizer.encode(text) for text in texts]
        for i, encoded in enumerate(found, start):
            self._check_length(len(encoded.ids), i)
        width = max((len(encoded.ids) for encoded in found), default=1)
        pads = {"input_ids": self._described.pad_id, "token_type_ids": self._described.pad_type_id}
        arrays = {}
        for tensor in self._inputs:
            array = np.full((len(found), width), pads.get(tensor.name, 0), dtype=tensor.dtype)
            for row, encoded in zip(array, found, strict=True):
                values = getattr(encoded, INPUTS[tensor.name])
                row[width - len(values) if self._described.left else 0 :][: len(values)] = values
            arrays[tensor.name] = array
        return arrays

    def _check_length(self, tokens: int, position: int) -> None:
        """Raise a ValueError for a number of tokens that the network does not take."""
        if not tokens or (self._longest is not None and tokens > self._longest):
            most = "or more" if self._longest is None else f"to {self._longest:,}"
            raise ValueError(
                f"expected texts of 1 {most} tokens, got {tokens:,} at position {position}; "
                + ("cut it" if tokens else "leave it out")
            )


def is_texts(x: Any) -> bool:
    """Return whether inputs are a list of texts, which may be empty, and not arrays."""
    if isinstance(x, np.ndarray):
        return x.dtype.kind in "UT" or (x.dtype.kind == "O" and x.ndim == 1 and len(x) > 0 and isinstance(x[0], str))
    return isinstance(x, (list, tuple)) and all(isinstance(text, str) for text in x[:1])


def _read(file: Path, described: TokenizerFile, check: bool) -> bytes:
    """Return the bytes of a file.

    Raises:
        FileNotFoundError: If it is missing.
        ValueError: If it is damaged.
    """
    try:
        payload = file.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(
            f"expected {FILE} in the bundle at {printable(file.parent, 200)}, found none; copy the whole folder"
        ) from error
    if check and hashlib.sha256(payload).hexdigest() != described.sha256:
        raise ValueError(f"expected {FILE} as it was written, got one that was changed; copy the whole folder again")
    return payload


def _load(payload: bytes) -> Any:
    """Return the tokenizer in a file.

    Raises:
        ImportError: If the package tokenizers is not installed.
        ValueError: If it cannot be read.
    """
    try:
        from tokenizers import Tokenizer as Loaded
    except ImportError as error:
        raise ImportError(
            "expected the package tokenizers for texts, found none; pip install 'suffice-runtime[text]', or pass arrays"
        ) from error
    try:
        return Loaded.from_str(payload.decode())
    except Exception as error:  # it has no class of its own for these errors
        raise ValueError(f"expected a tokenizer in {FILE}, got something else: {printable(error, 200)}") from error
