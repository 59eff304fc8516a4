"""Paper one on CIFAR-100, ImageNet and Caltech-256: an MSDNet, trained, calibrated and judged.

The paper's recipe is stochastic gradient descent with momentum 0.9, weight decay 1e-4, a learning rate of 0.1 divided
by ten at half and at three quarters of the epochs, the sum of the exits' cross-entropies, random crops and mirror
images. Fewer epochs than the paper's go down a cosine instead, and the results say so; more go down by steps as the
paper's do. If asked for, more networks are trained the same way with other losses, for rows of their own.
"""

import copy
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import suffice
from suffice import cost, data
from suffice.data import corruptions
from suffice.data.formats.encoded import Encoded
from suffice.data.images import Images
from suffice.data.ood import PAIRS, fitted
from suffice.data.splits import DataSet
from suffice.data.store import store
from suffice.evaluation import ablation, cached
from suffice.evaluation.ablation import AblationStudy
from suffice.models.msdnet import SETTINGS
from suffice.network import ExitNetwork
from suffice.reproduce.early_exit import measurements
from suffice.reproduce.ledger import Ledger, Results, same, write
from suffice.storage import reading
from suffice.storage.places import shown
from suffice.training.loop import cosine, steps
from suffice.training.loop import train as learn
from suffice.training.losses import Loss
from suffice.utils.progress import ProgressCallback

Sets = DataSet[Images] | DataSet[Encoded]

STRENGTH = 3
"""Of the corruptions."""
FITTED = 100_000
"""Training images that posteriors are fitted to, at most."""
JUDGED = 500
"""Images in a batch without gradients."""


@dataclass(frozen=True)
class Setup:
    """What the paper does with a data set.

    Attributes:
        family: of `models.msdnet`'s settings.
        epochs: of training.
        batch: images in one.
        images: to train on, as published.
    """

    family: str
    epochs: int
    batch: int
    images: int


SETUPS = {
    "cifar100": Setup("cifar", 300, 64, 45_000),
    "imagenet": Setup("imagenet", 90, 256, 1_231_167),
    "caltech256": Setup("imagenet", 180, 128, 21_424),
}
"""By name in the store. Of Caltech-256 the recipe is ours: twice ImageNet's epochs for its few images."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        source: a data set of `SETUPS`.
        size: "small", "medium" or "large" for small images, "4", "6" or "7" for photographs.
        epochs: the paper's, if None.
        seed: of weights, order and augmentation; of the split of the data too.
        validation: images held out of the training part; None for the data set's own number.
        bfloat16: in mixed precision, through Lightning Fabric (extra "train").
        compiled: through `torch.compile`.
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
        """Of the experiment."""
        return f"{self.source}-msdnet-{self.size}"

    @property
    def setup(self) -> Setup:
        """The paper's."""
        return SETUPS[self.source]

    @property
    def shortened(self) -> bool:
        """Whether there are fewer epochs than the paper's."""
        return self.trained_epochs < self.setup.epochs

    @property
    def trained_epochs(self) -> int:
        """Epochs of this training."""
        return self.setup.epochs if self.epochs is None else self.epochs

    @property
    def command(self) -> str:
        """That trains by it."""
        flags = [
            f"--epochs {self.epochs}" if self.trained_epochs != self.setup.epochs else "",
            f"--seed {self.seed}" if self.seed else "",
            f"--validation {self.validation}" if self.validation is not None else "",
            "" if self.bfloat16 else "--float32",
            "" if self.compiled else "--eager",
        ]
        return " ".join(["suffice reproduce", self.name, *filter(None, flags)])

    def load(self) -> Sets:
        """The data set, split by the seed.

        Raises:
            FileNotFoundError: if it is not in the store.
        """
        held = {} if self.validation is None else {"validation": self.validation}
        sets: Sets = data.load(self.source, seed=self.seed, **held)
        return sets

    def settings(self, sets: Sets) -> dict[str, Any]:
        """For the ledger."""
        settings = {name: getattr(self, name) for name in ("size", "seed", "bfloat16", "compiled")}
        settings |= {"epochs": self.trained_epochs, "batch": self.setup.batch}
        settings |= {"schedule": "cosine" if self.shortened else "steps"}
        if isinstance(sets.train, Encoded):
            settings |= {"images": len(sets.train), "classes": len(sets.classes), "fitted": FITTED}
        return settings


def run(recipe: Recipe, out: Path, progress: ProgressCallback, *, also: Sequence[str] = ()) -> Results:
    """Train, or go on training, then measure everything; results in `out/NAME.json`, weights beside it (`weights`).

    With `also`, names in `dynamic.OTHERS`, a network for each of these losses too, NAME-OTHER. Strangers and
    corruptions are of small images only. Where the results are all there, nothing is trained.

    Raises:
        FileNotFoundError: if the data set is not in the store.
        ValueError: if `out` holds another training, other results, or results of another network; for another loss
            that is not known.
    """
    others = measurements.others(also)
    sets = recipe.load()
    command = " ".join([recipe.command, *(f"--also {other}" for other in also)])
    ledger = Ledger(out / f"{recipe.name}.json", command, recipe.settings(sets), {recipe.source: sets.split})

    def fill(name: str, measures: Mapping[str, Measure], loss: Loss | None = None) -> None:
        ledger.fill(name, measures, lambda: _made(recipe, sets, weights(recipe, out, name), progress, loss))

    ours = {name: partial(_of_case, measure) for name, measure in measurements.measures().items()}
    if isinstance(sets.test, Encoded):
        fill(recipe.name, ours)
        ledger.run("full run", lambda: full_run(recipe.setup))
    else:
        fill(recipe.name, {**ours, **_of_small_images(recipe.source, sets.test)})
    for name, other in others.items():
        theirs = {row: partial(_of_case, partial(ablation.row, **choices)) for row, choices in other.choices.items()}
        fill(f"{recipe.name}-{name}", theirs, other.loss)
    return ledger.results


@dataclass(frozen=True)
class Made:
    """A trained network, and its features."""

    network: ExitNetwork
    case: AblationStudy


Measure = Callable[[Made], Results]


def _made(
    recipe: Recipe, sets: Sets, folder: Path, progress: ProgressCallback, loss: Loss | None
) -> tuple[ExitNetwork, Made]:
    network = trained(recipe, sets, folder, progress, loss)
    return network, Made(network, _case(network, sets, recipe.seed))


def _of_case(measure: Callable[[AblationStudy], Results], made: Made) -> Results:
    return measure(made.case)


def _of_small_images(source: str, test: Images) -> dict[str, Measure]:
    """What needs images that are made to fit: strangers, those that are in the store, and corruptions."""
    strangers = {f"{measurements.STRANGERS}{name}": partial(_against, name, test) for name in _strangers(source)}
    return {**strangers, "corruptions": partial(_under_corruption, test)}


def _strangers(source: str) -> list[str]:
    """Those that are in the store."""
    return [name for name in PAIRS[source] if name in store.names()]


def _against(stranger: str, test: Images, made: Made) -> Results:
    images = fitted(data.load(stranger, seed=0).test, test)
    return measurements.strangers(made.case, cached.compute(made.network, images.batches(JUDGED)))


def _under_corruption(test: Images, made: Made) -> Results:
    generator = torch.Generator().manual_seed(0)
    found = {}
    for kind in sorted(corruptions.KINDS):
        images = corruptions.corrupted(test, kind, STRENGTH, generator=generator)
        found[kind] = cached.compute(made.network, images.batches(JUDGED))
    return measurements.under_corruption(made.case, found)


def weights(recipe: Recipe, out: Path, name: str) -> Path:
    """The folder of a network's weights; a seed or a split of its own is in its name."""
    seed = f"-seed{recipe.seed}" if recipe.seed else ""
    validation = "" if recipe.validation is None else f"-validation{recipe.validation}"
    return out / f"{name}{seed}{validation}-weights"


def trained(
    recipe: Recipe, sets: Sets, folder: Path, progress: ProgressCallback, loss: Loss | None = None
) -> ExitNetwork:
    """The network, in evaluation mode; trained from the last checkpoint in the folder, if there is one.

    Raises:
        ValueError: if that is of another training.
    """
    _claim(recipe, sets, folder)
    torch.manual_seed(recipe.seed)
    network = suffice.models.msdnet(f"{recipe.setup.family}-{recipe.size}", num_classes=len(sets.classes))
    generator = torch.Generator().manual_seed(recipe.seed)
    learn(
        network,
        sets.train.shuffled(recipe.setup.batch, generator=generator),
        epochs=recipe.trained_epochs,
        loss=loss,
        schedule=cosine if recipe.shortened else steps,
        channels_last=True,
        compiled=recipe.compiled,
        fabric=_fabric() if recipe.bfloat16 else None,
        resume=folder,
        every=300.0,
        generator=generator,
        on_step=lambda step: progress("epochs of training", step.epoch - 1, step.epochs),
    )
    return network.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload,no-any-return]


def _claim(recipe: Recipe, sets: Sets, folder: Path) -> None:
    """Refuse weights of other settings or data, so that none are calibrated by the images that they learned from.

    What they are of stands in a file beside them. Those without one are older than such files, and taken as they are.
    """
    beside = folder.with_name(f"{folder.name}.json")
    asked = {"settings": recipe.settings(sets), "data": {recipe.source: sets.split}}
    known = reading.read_json(beside) if os.path.lexists(beside) else asked
    if not isinstance(known, dict) or known.keys() != asked.keys():
        raise ValueError(f"expected {shown(beside)} to say what weights are of, got something else; move it away")
    if reading.there(folder).exists() and os.path.lexists(beside):
        same(folder, known, asked)
    else:
        write(beside, asked)


def _fabric() -> Any:
    if importlib.util.find_spec("lightning_fabric") is None:
        raise ImportError("expected Lightning Fabric for bfloat16, found none; pip install 'suffice[train]'")
    from lightning_fabric import Fabric

    return Fabric(precision="bf16-mixed", devices=1)


def _case(network: ExitNetwork, sets: Sets, seed: int) -> AblationStudy:
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(sets.train), generator=generator)[:FITTED].sort().values
    train, validation, test = (
        cached.compute(network, part.batches(JUDGED))
        for part in (sets.train.subset(chosen), sets.validation, sets.test)
    )
    here = copy.deepcopy(network).cpu()  # as the features are
    first, _ = next(iter(sets.test.batches(1)))
    return AblationStudy(cached.over(here), cost.count(here, first), train, validation, test, seed)


def full_run(setup: Setup) -> dict[str, Any]:
    """What the paper's trainings on photographs take: multiply-adds of one image, by size; images and epochs."""
    macs = {}
    for name in SETTINGS:
        family, size = name.split("-")
        if family == setup.family:
            network = suffice.models.msdnet(name, num_classes=1000).eval()
            macs[size] = cost.count(network, torch.zeros(1, 3, 224, 224)).cumulative[-1]
    return {"macs": macs, "images": setup.images, "epochs": setup.epochs}
