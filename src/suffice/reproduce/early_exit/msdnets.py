"""Experiments of paper one on CIFAR-100, ImageNet and Caltech-256: an MSDNet, trained, calibrated and evaluated.

On request, further networks are trained the same way with other losses and measured as additional rows.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import suffice
from suffice import cost, data
from suffice.data import corruptions
from suffice.data.ood import PAIRS, match_format
from suffice.data.splits.encoded import EncodedImages
from suffice.data.splits.images import Images
from suffice.data.store import lookup
from suffice.evaluation import ablation, cached
from suffice.evaluation.ablation import AblationStudy
from suffice.models.msdnet import SETTINGS
from suffice.network import ExitNetwork
from suffice.reproduce.early_exit import measurements
from suffice.reproduce.early_exit.msdnet_training import (
    FIT_IMAGES,
    MSDNetExperiment,
    PaperConfig,
    Sets,
    train_network,
    weights_folder,
)
from suffice.reproduce.ledger import Ledger, Results
from suffice.training.losses import Loss
from suffice.utils.progress import ProgressCallback

STRENGTH = 3
"""Strength of the corruptions."""
BATCH = 500
"""Batch size of forward passes without gradients."""


@dataclass(frozen=True)
class TrainedNetwork:
    """Trained network and its cached features."""

    network: ExitNetwork
    study: AblationStudy


Measure = Callable[[TrainedNetwork], Results]


def run(config: MSDNetExperiment, out: Path, progress: ProgressCallback, *, also: Sequence[str] = ()) -> Results:
    """Train a network, measure it, and write `out/NAME.json` with the weights in a folder beside it.

    An interrupted training is resumed, and nothing is trained if no run is missing. For each name in `also` (a key of
    `measurements.ALTERNATIVE_LOSSES`) a further network NAME-LOSS is trained and measured. Out-of-distribution data
    and corruptions are measured for small images only.

    Raises:
        FileNotFoundError: If the data set is not in the store.
        ValueError: If `out` holds another training, results of other settings or of another network, or if a name in
            `also` is unknown.
    """
    losses = measurements.alternative_losses(also)
    sets = config.load()
    command = " ".join([config.command, *(f"--also {name}" for name in also)])
    ledger = Ledger(out / f"{config.name}.json", command, config.settings(sets), {config.source: sets.split})

    def fill(name: str, measures: Mapping[str, Measure], loss: Loss | None = None) -> None:
        folder = weights_folder(config, out, name)
        ledger.fill(name, measures, lambda: _train_and_cache(config, sets, folder, progress, loss))

    measures = {key: partial(_on_features, measure) for key, measure in measurements.measures().items()}
    if isinstance(sets.test, EncodedImages):
        fill(config.name, measures)
        ledger.run("full run", lambda: full_training(config.paper))
    else:
        fill(config.name, {**measures, **_small_image_measures(config.source, sets.test)})
    for name, alternative in losses.items():
        rows = {
            row: partial(_on_features, partial(ablation.row, **choices)) for row, choices in alternative.choices.items()
        }
        fill(f"{config.name}-{name}", rows, alternative.loss)
    return ledger.results


def _train_and_cache(
    config: MSDNetExperiment, sets: Sets, folder: Path, progress: ProgressCallback, loss: Loss | None
) -> tuple[ExitNetwork, TrainedNetwork]:
    network = train_network(config, sets, folder, progress, loss)
    return network, TrainedNetwork(network, cache_features(network, sets, config.seed))


def cache_features(network: ExitNetwork, sets: Sets, seed: int) -> AblationStudy:
    """Return a trained network over its cached features, those of at most `FIT_IMAGES` training images."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(sets.train), generator=generator)[:FIT_IMAGES].sort().values
    train, validation, test = (
        cached.compute(network, split.batches(BATCH, shuffle=False))
        for split in (sets.train.subset(rows), sets.validation, sets.test)
    )
    cpu_network = copy.deepcopy(network).cpu()  # the cached features are on the CPU
    example, _ = next(iter(sets.test.batches(1)))
    costs = cost.count(cpu_network, example)
    return AblationStudy(cached.network_on_features(cpu_network), costs, train, validation, test, seed)


def _on_features(measure: Callable[[AblationStudy], Results], trained: TrainedNetwork) -> Results:
    return measure(trained.study)


def _small_image_measures(source: str, test: Images) -> dict[str, Measure]:
    """Return the measurements that resize or corrupt images: out-of-distribution data in the store, and corruptions."""
    ood = {f"{measurements.OOD_PREFIX}{name}": partial(_measure_ood, name, test) for name in _stored_ood_sets(source)}
    return {**ood, "corruptions": partial(_measure_corruptions, test)}


def _stored_ood_sets(source: str) -> list[str]:
    return [name for name in PAIRS[source] if name in lookup.names()]


def _measure_ood(name: str, test: Images, trained: TrainedNetwork) -> Results:
    images = match_format(data.load(name, seed=0).test, test)
    return measurements.ood_detection(trained.study, cached.compute(trained.network, images.batches(BATCH)))


def _measure_corruptions(test: Images, trained: TrainedNetwork) -> Results:
    generator = torch.Generator().manual_seed(0)
    features = {}
    for kind in sorted(corruptions.KINDS):
        images = corruptions.corrupt_split(test, kind, STRENGTH, generator=generator)
        features[kind] = cached.compute(trained.network, images.batches(BATCH))
    return measurements.under_corruption(trained.study, features)


def full_training(paper: PaperConfig) -> dict[str, Any]:
    """Return the size of the paper's trainings on photographs.

    Returns:
        "macs", multiply-adds per image for each size of the network; "images" and "epochs" of a training.
    """
    macs = {}
    for name in SETTINGS:
        family, size = name.split("-")
        if family == paper.family:
            network = suffice.models.msdnet(name, num_classes=1000).eval()
            macs[size] = cost.count(network, torch.zeros(1, 3, 224, 224)).cumulative[-1]
    return {"macs": macs, "images": paper.images, "epochs": paper.epochs}
