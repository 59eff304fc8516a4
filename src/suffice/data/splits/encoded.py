"""Photographs: kept as encoded files (JPEG, PNG, …) and decoded on access by worker processes.

Sources are the packed files of an import (all images end to end in one memory-mapped file) or a folder that is read
in place. The random crop of an image depends only on the generator and its position in the epoch, not on the number
of workers.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from suffice.data.formats.images import crops
from suffice.data.formats.images.encoded_files import EncodedSource
from suffice.data.splits import order
from suffice.data.store.dataset import Array

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Channel mean and standard deviation of ImageNet's training pixels / 255, as used by pretrained networks."""


@dataclass(frozen=True)
class EncodedImages:
    """Split of images that are decoded on access.

    Attributes:
        source: Encoded images by index.
        labels: Class of each image of the split, (N,) int64.
        rows: Index in the source of each image of the split, (N,) int64.
        size: Height and width of the square decoded images, in pixels.
        workers: Number of processes that decode; 0: this process.
        skip: Skip images that do not decode, instead of raising.
        training: Whether the split is for training, so that `batches` are in random order by default.
    """

    source: EncodedSource
    labels: Tensor
    rows: Tensor
    size: int = 224
    workers: int = 2
    skip: bool = False
    training: bool = False

    def __repr__(self) -> str:
        """Return a one-line summary."""
        return f"EncodedImages({len(self):,} of {(3, self.size, self.size)}, workers={self.workers}, skip={self.skip})"

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def subset(self, rows: Tensor) -> "EncodedImages":
        """Return the split of these rows only, (n,) int64."""
        return replace(self, labels=self.labels[rows], rows=self.rows[rows])

    def batches(
        self, size: int = 256, *, shuffle: bool | None = None, device: torch.device | str = "cpu"
    ) -> "EncodedBatches":
        """Return batches (x, y) without augmentation; they can be iterated repeatedly.

        The short side of an image is scaled to 8/7 of the split's `size`, the center cropped, and x standardized.

        Args:
            size: Images in a batch; the last batch may be smaller.
            shuffle: Return one fixed random order instead of the stored one, which is that of `labels`; None: for a
                training split only.
            device: Device of the batches.
        """
        return EncodedBatches(self, size, torch.device(device), self.training if shuffle is None else shuffle, None)

    def shuffled(
        self, size: int, *, generator: torch.Generator, device: torch.device | str = "cpu"
    ) -> "EncodedBatches":
        """Return batches for training: in each epoch a new order, random crops (8–100 % of the area), mirroring."""
        return EncodedBatches(self, size, torch.device(device), True, generator)


@dataclass(frozen=True)
class EncodedBatches:
    """Batches of a split of encoded images.

    Attributes:
        split: The images.
        size: Images in a batch.
        device: Device of the batches.
        shuffle: Whether the order is random, not that of the split.
        generator: Randomness of order and augmentation; None: the order of `suffice.data.splits.order`, not augmented.
    """

    split: EncodedImages
    size: int
    device: torch.device
    shuffle: bool
    generator: torch.Generator | None

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self.split) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over one epoch of (x, y); x is float32 (N, 3, size, size), standardized by ImageNet's moments.

        Raises:
            ValueError: If an image does not decode, unless such images are skipped.
        """
        count = len(self.split)
        if self.generator is None:
            rows, seeds = order.positions(count, self.shuffle), torch.full((count,), -1)
        else:
            rows = torch.randperm(count, generator=self.generator)
            seeds = torch.randint(1 << 62, (count,), generator=self.generator)
        jobs = torch.stack([rows, seeds], dim=1)
        mean, std = (torch.tensor(values, device=self.device)[:, None, None] for values in (MEAN, STD))
        for images, labels in self._decode([job.tolist() for job in jobs.split(self.size)]):
            yield images.to(self.device).float().div_(255).sub_(mean).div_(std), labels.to(self.device)

    def _decode(self, jobs: list[list[list[int]]]) -> Iterator[tuple[Tensor, Tensor]]:
        split = self.split
        loader = torch.utils.data.DataLoader(
            _Decoder(split.source, split.rows, split.size),
            batch_sampler=jobs,
            num_workers=split.workers,
            collate_fn=list,
        )
        for batch in loader:
            messages = [message for _, _, message in batch if message]
            if messages and not split.skip:
                raise ValueError(f"{messages[0]}; leave such images out with skip=True")
            decoded = [(row, image) for row, image, message in batch if not message]
            if decoded:
                rows = torch.tensor([row for row, _ in decoded])
                yield torch.from_numpy(np.stack([image for _, image in decoded])), split.labels[rows]


@dataclass(frozen=True)
class _Decoder(torch.utils.data.Dataset[tuple[int, Array, str]]):
    """Dataset whose items are decoded by worker processes.

    Maps [row of the split, seed or −1] to (row, image or an empty array, error message or '').
    """

    source: EncodedSource
    rows: Tensor
    size: int

    def __getitem__(self, job: list[int]) -> tuple[int, Array, str]:
        row, seed = job
        index = int(self.rows[row])
        try:
            image = crops.decode_crop(self.source.read(index), self.size, None if seed < 0 else seed)
        except (ValueError, OSError) as error:
            message = f"expected an image that decodes, got {self.source.name(index)}: {error}"
            return row, np.empty(0, dtype=np.uint8), message
        return row, image, ""
