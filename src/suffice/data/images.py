"""Small images of one size: memory-mapped, gathered, augmented and standardised a batch at a time.

The whole work on a batch is a few tensor operations, on the device if one is given, so that no worker processes
are needed to keep up with a training step (`benchmarks/data.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from suffice.data.augment import Augment
from suffice.data.store.dataset import Array


@dataclass(frozen=True)
class Images:
    """A split: images with their labels.

    Attributes:
        pixels: (M, C, H, W) uint8, or floating and already as a network takes it; may be memory-mapped.
        labels: (N,) int64.
        rows: (N,) int64, which of the pixels belong to the split; None: all, in order.
        mean: (C,) channel mean of the training pixels / 255; None: not standardised.
        std: (C,) their standard deviation.
        augment: what `shuffled` does to the images; None: nothing.
    """

    pixels: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    rows: Tensor | None = field(default=None, repr=False)
    mean: Tensor | None = None
    std: Tensor | None = None
    augment: Augment | None = None

    def __repr__(self) -> str:
        """One line."""
        return f"Images({len(self):,} of {tuple(self.pixels.shape[1:])}, augment={self.augment})"

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def images(self) -> Tensor:
        """The images (N, C, H, W) as they are stored: memory-mapped where the split is the whole part."""
        return self.pixels if self.rows is None else self.pixels.index_select(0, self.rows)

    def subset(self, rows: Tensor) -> "Images":
        """The split of these rows, (n,) int64, alone."""
        return replace(self, labels=self.labels[rows], rows=rows if self.rows is None else self.rows[rows])

    def batches(self, size: int = 256, *, device: torch.device | str = "cpu") -> "ImageBatches":
        """Batches (x, y) in order and without augmentation, to be iterated any number of times.

        x is float32: pixels / 255, less the mean and over the standard deviation where those are known.
        """
        return ImageBatches(self, size, torch.device(device))

    def shuffled(
        self,
        size: int,
        *,
        generator: torch.Generator,
        augment: Augment | None = None,
        device: torch.device | str = "cpu",
    ) -> "ShuffledImages":
        """Batches for training, in another order and with another augmentation at each pass.

        Args:
            size: images in a batch; the last one may hold fewer.
            generator: of order and augmentation; on the CPU.
            augment: instead of the split's own; `suffice.data.augment.unchanged` for none.
            device: where the images go before they are augmented.
        """
        return ShuffledImages(self, size, torch.device(device), generator, augment or self.augment)

    def gather(self, rows: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Images and labels of these rows of the split, on the device, as they are stored."""
        where = rows if self.rows is None else self.rows[rows]
        return self.pixels.index_select(0, where).to(device), self.labels[rows].to(device)

    def prepare(self, images: Tensor) -> Tensor:
        """Stored images as a network takes them."""
        if images.dtype != torch.uint8:
            return images
        x = images.float().div_(255)
        if self.mean is None or self.std is None:
            return x
        return x.sub_(self.mean.to(x.device)[:, None, None]).div_(self.std.to(x.device)[:, None, None])


@dataclass(frozen=True)
class ImageBatches:
    """A split in order."""

    split: Images
    size: int
    device: torch.device

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.split) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass."""
        for rows in torch.arange(len(self.split)).split(self.size):
            images, labels = self.split.gather(rows, self.device)
            yield self.split.prepare(images), labels


@dataclass(frozen=True)
class ShuffledImages(ImageBatches):
    """A split in random order, augmented."""

    generator: torch.Generator
    augment: Augment | None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch."""
        for rows in torch.randperm(len(self.split), generator=self.generator).split(self.size):
            images, labels = self.split.gather(rows, self.device)
            if self.augment is not None:
                images = self.augment(images, generator=self.generator)
            yield self.split.prepare(images), labels


def moments(split: Images) -> tuple[Array, Array]:
    """Mean and standard deviation (C,) of the pixels / 255 of a split, channel by channel, float32."""
    count, channels = 0, split.pixels.shape[1]
    total, squares = torch.zeros(2, channels, dtype=torch.float64)
    for rows in torch.arange(len(split)).split(1000):
        x = split.gather(rows, torch.device("cpu"))[0].transpose(0, 1).flatten(1).float()
        count += x.shape[1]
        total += x.sum(dim=1).double()
        squares += torch.linalg.vecdot(x, x).double()
    mean = total / count
    std = (squares / count - mean.square()).sqrt()
    return (mean / 255).float().numpy(), (std / 255).float().numpy()
