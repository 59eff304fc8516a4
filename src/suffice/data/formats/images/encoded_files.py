"""Encoded images by index: packed end to end in one file, or in files of their own."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from suffice.data.formats.images import decoding
from suffice.data.store.dataset import Array


class EncodedSource(Protocol):
    """Encoded images by index."""

    def read(self, index: int) -> bytes:
        """Return the encoded bytes of an image."""

    def name(self, index: int) -> str:
        """Return the name of an image, for messages."""


@dataclass(frozen=True)
class PackedImages:
    """Encoded images end to end in one memory-mapped file.

    Attributes:
        data: Bytes of the file, (B,) uint8.
        offset: Image i is bytes offset[i] to offset[i + 1], (N + 1,) int64.
        names: Names of the images in their source, (N,).
        file: Path of the file.
    """

    data: Array
    offset: Array
    names: Array
    file: Path

    def read(self, index: int) -> bytes:
        """Return the encoded bytes of an image."""
        return bytes(self.data[self.offset[index] : self.offset[index + 1]])

    def name(self, index: int) -> str:
        """Return the name of an image in its source, and the packed file."""
        return f"{os.fsdecode(self.names[index])} in {self.file}"


@dataclass(frozen=True)
class ImageFiles:
    """Encoded images in files of their own.

    Attributes:
        paths: Path of each image.
    """

    paths: Sequence[Path]

    def read(self, index: int) -> bytes:
        """Return the encoded bytes of an image."""
        return decoding.read_image_file(self.paths[index])

    def name(self, index: int) -> str:
        """Return the path of an image."""
        return str(self.paths[index])
