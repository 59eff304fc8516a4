"""Photographs: kept as the JPEG or PNG files they are, decoded by worker processes as they are asked for.

Sources are the packed files of an import (all images end to end in one memory-mapped file) or a folder read in
place. What is drawn for an image depends on the generator and its place in the epoch only, not on the number of
workers.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from suffice.data.formats import decoding
from suffice.data.store.store import Array

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's training pixels / 255, as pretrained networks have it."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""

_ASPECT = (3 / 4, 4 / 3)
_AREA = (0.08, 1.0)


class Source(Protocol):
    """Encoded images by number."""

    def read(self, index: int) -> bytes:
        """The bytes of an image."""

    def name(self, index: int) -> str:
        """What to call it in a message."""


@dataclass(frozen=True)
class Packed:
    """Images end to end in one file: image i is bytes offset[i] to offset[i + 1]."""

    data: Array
    offset: Array
    names: Array
    file: Path

    def read(self, index: int) -> bytes:
        """The bytes of an image."""
        return bytes(self.data[self.offset[index] : self.offset[index + 1]])

    def name(self, index: int) -> str:
        """Its name where it came from."""
        return f"{os.fsdecode(self.names[index])} in {self.file}"


@dataclass(frozen=True)
class Files:
    """Images in files of their own."""

    paths: Sequence[Path]

    def read(self, index: int) -> bytes:
        """The bytes of an image."""
        return decoding.contents(self.paths[index])

    def name(self, index: int) -> str:
        """Its path."""
        return str(self.paths[index])


@dataclass(frozen=True)
class Encoded:
    """A split of images that are decoded as they are asked for.

    Attributes:
        source: of the bytes.
        labels: (N,) int64.
        rows: (N,) int64, which images of the source belong to the split.
        size: side of the square images that come out.
        workers: processes that decode; 0: this one.
        skip: leave out images that do not decode, instead of refusing.
    """

    source: Source
    labels: Tensor
    rows: Tensor
    size: int = 224
    workers: int = 2
    skip: bool = False

    def __repr__(self) -> str:
        """One line."""
        return f"Encoded({len(self):,} of {(3, self.size, self.size)}, workers={self.workers}, skip={self.skip})"

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def subset(self, rows: Tensor) -> "Encoded":
        """The split of these rows, (n,) int64, alone."""
        return replace(self, labels=self.labels[rows], rows=self.rows[rows])

    def batches(self, size: int = 256, *, device: torch.device | str = "cpu") -> "Decoded":
        """Batches (x, y) in order: the short side scaled to 8/7 of `size`, the middle cut out, standardised."""
        return Decoded(self, size, torch.device(device), None)

    def shuffled(self, size: int, *, generator: torch.Generator, device: torch.device | str = "cpu") -> "Decoded":
        """Batches for training: another order, another random cut (8 to 100 % of the area) and mirroring each pass."""
        return Decoded(self, size, torch.device(device), generator)


@dataclass(frozen=True)
class Decoded:
    """A split being decoded, in order or, with a generator, in random order and augmented."""

    split: Encoded
    size: int
    device: torch.device
    generator: torch.Generator | None

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.split) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass; images are float32 (N, 3, size, size), standardised by ImageNet's mean and deviation.

        Raises:
            ValueError: naming an image that does not decode, unless such are skipped.
        """
        count = len(self.split)
        if self.generator is None:
            places, draws = torch.arange(count), torch.full((count,), -1)
        else:
            places = torch.randperm(count, generator=self.generator)
            draws = torch.randint(1 << 62, (count,), generator=self.generator)
        jobs = torch.stack([places, draws], dim=1)
        mean, std = (torch.tensor(values, device=self.device)[:, None, None] for values in (MEAN, STD))
        for images, labels in self._decoded([job.tolist() for job in jobs.split(self.size)]):
            yield images.to(self.device).float().div_(255).sub_(mean).div_(std), labels.to(self.device)

    def _decoded(self, jobs: list[list[list[int]]]) -> Iterator[tuple[Tensor, Tensor]]:
        split = self.split
        loader = torch.utils.data.DataLoader(
            _Decoder(split.source, split.rows, split.size),
            batch_sampler=jobs,
            num_workers=split.workers,
            collate_fn=list,
        )
        for batch in loader:
            bad = [message for _, _, message in batch if message]
            if bad and not split.skip:
                raise ValueError(f"{bad[0]}; leave such images out with skip=True")
            good = [(place, image) for place, image, message in batch if not message]
            if good:
                places = torch.tensor([place for place, _ in good])
                yield torch.from_numpy(np.stack([image for _, image in good])), split.labels[places]


@dataclass(frozen=True)
class _Decoder(torch.utils.data.Dataset[tuple[int, Array, str]]):
    """What a worker does: item (place in the split, draw or -1) to (place, image or nothing, message or '')."""

    source: Source
    rows: Tensor
    size: int

    def __getitem__(self, job: list[int]) -> tuple[int, Array, str]:
        place, draw = job
        index = int(self.rows[place])
        try:
            image = decode(self.source.read(index), self.size, None if draw < 0 else draw)
        except (ValueError, OSError) as error:
            message = f"expected an image that decodes, got {self.source.name(index)}: {error}"
            return place, np.empty(0, dtype=np.uint8), message
        return place, image, ""


def decode(data: bytes, size: int, draw: int | None) -> Array:
    """An encoded image as uint8 (3, size, size): its middle, or with a `draw` a random cut, perhaps mirrored.

    Raises:
        ValueError: if it does not decode, or is so large that it must be a decompression bomb.
    """
    pillow = decoding.require_pillow()
    with decoding.opened(data) as image:
        orientation = decoding.turn(image)
        across = decoding.sides(image.size, orientation)
        if draw is None:
            box, mirrored = _middle(*across), False
        else:
            box, mirrored = _random_box(*across, np.random.default_rng(draw))
        wanted = [int(side * size / cut) for side, cut in zip(across, (box[2] - box[0], box[3] - box[1]), strict=True)]
        image.draft(None, decoding.sides(wanted, orientation))
        picture = decoding.picture(image, orientation)
    scale = [now / before for now, before in zip(picture.size, across, strict=True)]  # a JPEG's may be 1/2, 1/4 or 1/8
    box = (box[0] * scale[0], box[1] * scale[1], box[2] * scale[0], box[3] * scale[1])
    square = picture.resize((size, size), pillow.Resampling.BILINEAR, box=box, reducing_gap=2.0)
    pixels = np.asarray(square).transpose(2, 0, 1)
    return np.ascontiguousarray(pixels[:, :, ::-1] if mirrored else pixels)


def _middle(width: int, height: int) -> Box:
    """The middle 7/8 of the short side, square."""
    side = min(width, height) * 7 / 8
    return _box((width - side) / 2, (height - side) / 2, side, side)


def _random_box(width: int, height: int, generator: np.random.Generator) -> tuple[Box, bool]:
    """A cut of random area and aspect, and whether to mirror it (Szegedy et al. 2015)."""
    area = width * height * generator.uniform(*_AREA)
    aspect = np.exp(generator.uniform(*np.log(_ASPECT)))
    across = min(float(np.sqrt(area * aspect)), width)
    down = min(float(np.sqrt(area / aspect)), height)
    left, top = generator.uniform(0, width - across), generator.uniform(0, height - down)
    return _box(left, top, across, down), bool(generator.random() < 0.5)


def _box(left: float, top: float, across: float, down: float) -> Box:
    return left, top, left + across, top + down
