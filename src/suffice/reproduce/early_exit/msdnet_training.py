"""Training of an MSDNet as in paper one, with checkpoints.

The paper's recipe is stochastic gradient descent with momentum 0.9, weight decay 1e-4, a learning rate of 0.1 divided
by ten after half and after three quarters of the epochs, the sum of the exits' cross-entropies, random crops and
horizontal flips. A training with fewer epochs than the paper's decays the learning rate along a cosine instead, which
is recorded in the results; one with more epochs uses the paper's steps.
"""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import suffice
from suffice import data
from suffice.data.splits.assignment import DataSet
from suffice.data.splits.encoded import EncodedImages
from suffice.data.splits.images import Images
from suffice.network import ExitNetwork
from suffice.reproduce.ledger import check_match, write
from suffice.storage import reading
from suffice.training import Checkpointing, Execution, SGDConfig, cosine, steps, train
from suffice.training.losses import Loss
from suffice.utils.progress import ProgressCallback
from suffice.utils.text import printable

Sets = DataSet[Images] | DataSet[EncodedImages]

FIT_IMAGES = 100_000
"""Maximum number of training images that posteriors are fitted to."""


@dataclass(frozen=True)
class PaperConfig:
    """Training setting of the paper for one data set.

    Attributes:
        family: Family of settings of `models.msdnet`.
        epochs: Number of training epochs.
        batch: Batch size.
        images: Number of training images, as published.
    """

    family: str
    epochs: int
    batch: int
    images: int


PAPER_CONFIGS = {
    "cifar100": PaperConfig("cifar", 300, 64, 45_000),
    "imagenet": PaperConfig("imagenet", 90, 256, 1_231_167),
    "caltech256": PaperConfig("imagenet", 180, 128, 21_424),
}
"""Settings by name of the data set in the store.

The number of epochs for Caltech-256 is ours: twice ImageNet's, because it has few images.
"""


@dataclass(frozen=True)
class MSDNetExperiment:
    """Configuration of one training of an MSDNet.

    Attributes:
        source: Name of the data set, a key of `PAPER_CONFIGS`.
        size: "small", "medium" or "large" for small images; "4", "6" or "7" for photographs.
        epochs: Number of training epochs; None for the paper's.
        seed: Seed of the weights, the order, the augmentation and the split of the data.
        validation: Number of images held out of the training part; None for the data set's default.
        bfloat16: Train in mixed precision with Lightning Fabric (extra "train"), on a processor that has it.
        compiled: Train with `torch.compile`.
    """

    source: str
    size: str
    epochs: int | None = None
    seed: int = 0
    validation: int | None = None
    bfloat16: bool = True
    compiled: bool = True

    @property
    def name(self) -> str:
        """Name of the experiment."""
        return f"{self.source}-msdnet-{self.size}"

    @property
    def paper(self) -> PaperConfig:
        """Training setting of the paper."""
        return PAPER_CONFIGS[self.source]

    @property
    def shortened(self) -> bool:
        """Return whether the training has fewer epochs than the paper's."""
        return self.trained_epochs < self.paper.epochs

    @property
    def trained_epochs(self) -> int:
        """Number of epochs of this training."""
        return self.paper.epochs if self.epochs is None else self.epochs

    @property
    def command(self) -> str:
        """Command line that runs this training."""
        flags = [
            f"--epochs {self.epochs}" if self.trained_epochs != self.paper.epochs else "",
            f"--seed {self.seed}" if self.seed else "",
            f"--validation {self.validation}" if self.validation is not None else "",
            "" if self.bfloat16 else "--float32",
            "" if self.compiled else "--eager",
        ]
        return " ".join(["suffice reproduce", self.name, *filter(None, flags)])

    def load(self) -> Sets:
        """Load the data set, split with the seed.

        Raises:
            FileNotFoundError: If it is not in the store.
        """
        options = {} if self.validation is None else {"validation": self.validation}
        sets: Sets = data.load(self.source, seed=self.seed, **options)
        return sets

    def settings(self, sets: Sets) -> dict[str, Any]:
        """Return the settings that a ledger records."""
        settings = {name: getattr(self, name) for name in ("size", "seed", "bfloat16", "compiled")}
        settings |= {"epochs": self.trained_epochs, "batch": self.paper.batch}
        settings |= {"schedule": "cosine" if self.shortened else "steps"}
        if isinstance(sets.train, EncodedImages):
            settings |= {"images": len(sets.train), "classes": len(sets.classes), "fitted": FIT_IMAGES}
        return settings


def weights_folder(config: MSDNetExperiment, out: Path, name: str) -> Path:
    """Return the folder of a network's weights, whose name contains a seed or a split other than the default."""
    seed = f"-seed{config.seed}" if config.seed else ""
    validation = "" if config.validation is None else f"-validation{config.validation}"
    return out / f"{name}{seed}{validation}-weights"


def train_network(
    config: MSDNetExperiment, sets: Sets, folder: Path, progress: ProgressCallback, loss: Loss | None = None
) -> ExitNetwork:
    """Train a network, or resume from the last checkpoint in a folder, and return it in evaluation mode.

    Raises:
        ValueError: If the folder holds the checkpoint of another training.
    """
    _check_settings(config, sets, folder)
    torch.manual_seed(config.seed)
    network = suffice.models.msdnet(f"{config.paper.family}-{config.size}", num_classes=len(sets.classes))
    generator = torch.Generator().manual_seed(config.seed)
    train(
        network,
        sets.train.shuffled(config.paper.batch, generator=generator),
        epochs=config.trained_epochs,
        loss=loss,
        optimizer=SGDConfig(schedule=cosine if config.shortened else steps),
        execution=Execution(
            channels_last=True, compiled=config.compiled, fabric=mixed_precision() if config.bfloat16 else None
        ),
        checkpoint=Checkpointing(folder, every=300.0, generator=generator),
        on_step=lambda step: progress("epochs of training", step.epoch - 1, step.epochs),
    )
    return network.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload,no-any-return]


def _check_settings(config: MSDNetExperiment, sets: Sets, folder: Path) -> None:
    """Raise a ValueError if the weights in a folder were trained with other settings or data; else record both.

    This keeps a network from being calibrated on images that it was trained on. Settings and data are recorded in a
    JSON file beside the folder. Weights without that file are older than this check and are accepted.
    """
    file = folder.with_name(f"{folder.name}.json")
    expected = {"settings": config.settings(sets), "data": {config.source: sets.split}}
    recorded = reading.read_json(file) if os.path.lexists(file) else expected
    if not isinstance(recorded, dict) or recorded.keys() != expected.keys():
        raise ValueError(f"expected {printable(file)} to hold settings and data, got other content; move it away")
    if reading.current_folder(folder).exists() and os.path.lexists(file):
        check_match(folder, recorded, expected)
    else:
        write(file, expected)


def mixed_precision() -> Any:
    """Return a Lightning Fabric that trains in bfloat16 where that is safe; None where float32 is faster.

    Without instructions for bfloat16 an MSDNet small trains seven times slower in it than in float32.

    Raises:
        ImportError: If Lightning Fabric is not installed.
    """
    if not (torch.cuda.is_available() or _has_bfloat16()):
        return None
    if importlib.util.find_spec("lightning_fabric") is None:
        raise ImportError("expected Lightning Fabric for bfloat16, found none; pip install 'suffice[train]'")
    from lightning_fabric import Fabric

    return Fabric(precision="bf16-mixed", devices=1)


def _has_bfloat16() -> bool:
    """Return whether the processor has instructions for bfloat16 that torch uses."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
