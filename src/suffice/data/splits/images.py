"""Small images of one size: memory-mapped, then gathered, augmented and standardized one batch at a time.

A batch takes a few tensor operations, on the device if one is given, so that loading keeps up with training without
worker processes (`benchmarks/data.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from suffice.data.augment import Augment
from suffice.data.splits import order
from suffice.data.store.dataset import Array


@dataclass(frozen=True)
class Images:
    """Split of images with their labels.

    Attributes:
        pixels: Images (M, C, H, W), uint8, or floating and ready for the network; may be memory-mapped.
        labels: Class of each image of the split, (N,) int64.
        rows: Index into `pixels` of each image of the split, (N,) int64; None: all, in order.
        mean: Channel mean (C,) of the training pixels / 255; None: not standardized.
        std: Channel standard deviation (C,) of the training pixels / 255.
        augment: Augmentation in `shuffled`; None: no augmentation.
        training: Whether the split is for training, so that `batches` are in random order by default.
    """

    pixels: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    rows: Tensor | None = field(default=None, repr=False)
    mean: Tensor | None = None
    std: Tensor | None = None
    augment: Augment | None = None
    training: bool = False

    def __repr__(self) -> str:
        """Return a one-line summary."""
        return f"Images({len(self):,} of {tuple(self.pixels.shape[1:])}, augment={self.augment})"

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    @property
    def images(self) -> Tensor:
        """Stored images (N, C, H, W); memory-mapped if the split has all rows."""
        return self.pixels if self.rows is None else self.pixels.index_select(0, self.rows)

    def subset(self, rows: Tensor) -> "Images":
        """Return the split of these rows only, (n,) int64."""
        return replace(self, labels=self.labels[rows], rows=rows if self.rows is None else self.rows[rows])

    def batches(
        self, size: int = 256, *, shuffle: bool | None = None, device: torch.device | str = "cpu"
    ) -> "ImageBatches":
        """Return batches (x, y) without augmentation; they can be iterated repeatedly.

        x is float32: pixels / 255, standardized by `mean` and `std` if these are set.

        Args:
            size: Images in a batch; the last batch may be smaller.
            shuffle: Return one fixed random order instead of the stored one, which is that of `labels`; None: for a
                training split only.
            device: Device of the batches.
        """
        return ImageBatches(self, size, torch.device(device), self.training if shuffle is None else shuffle)

    def shuffled(
        self,
        size: int,
        *,
        generator: torch.Generator,
        augment: Augment | None = None,
        device: torch.device | str = "cpu",
    ) -> "ShuffledImages":
        """Return batches (x, y) for training, with a new order and augmentation in each epoch.

        Args:
            size: Images in a batch; the last batch may be smaller.
            generator: CPU generator of order and augmentation.
            augment: Augmentation that replaces the split's; `suffice.data.augment.unchanged` turns it off.
            device: Device of the batches; images are augmented there.
        """
        return ShuffledImages(self, size, torch.device(device), True, generator, augment or self.augment)

    def gather(self, rows: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the stored images and labels of these rows of the split, on the device."""
        index = rows if self.rows is None else self.rows[rows]
        return self.pixels.index_select(0, index).to(device), self.labels[rows].to(device)

    def prepare(self, images: Tensor) -> Tensor:
        """Return stored images as network inputs: float32, scaled by 1 / 255 and standardized."""
        if images.dtype != torch.uint8:
            return images
        x = images.float().div_(255)
        if self.mean is None or self.std is None:
            return x
        return x.sub_(self.mean.to(x.device)[:, None, None]).div_(self.std.to(x.device)[:, None, None])


@dataclass(frozen=True)
class ImageBatches:
    """Batches of a split, in the same order in each pass.

    Attributes:
        split: The images.
        size: Images in a batch.
        device: Device of the batches.
        shuffle: Whether the order is random (`suffice.data.splits.order`), not that of the split.
    """

    split: Images
    size: int
    device: torch.device
    shuffle: bool

    def __len__(self) -> int:
        """Return the number of batches."""
        return -(-len(self.split) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over the split once, as pairs (x, y)."""
        for rows in order.positions(len(self.split), self.shuffle).split(self.size):
            images, labels = self.split.gather(rows, self.device)
            yield self.split.prepare(images), labels


@dataclass(frozen=True)
class ShuffledImages(ImageBatches):
    """Batches of a split, in a new random order in each pass and augmented.

    Attributes:
        generator: CPU generator of order and augmentation.
        augment: Augmentation; None: no augmentation.
    """

    generator: torch.Generator
    augment: Augment | None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over one epoch, as pairs (x, y)."""
        for rows in torch.randperm(len(self.split), generator=self.generator).split(self.size):
            images, labels = self.split.gather(rows, self.device)
            if self.augment is not None:
                images = self.augment(images, generator=self.generator)
            yield self.split.prepare(images), labels


def moments(split: Images) -> tuple[Array, Array]:
    """Return mean and standard deviation (C,) float32 of the pixels / 255 of a split, per channel."""
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
