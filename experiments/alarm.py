"""Judge the alarm of a variation estimator: how well its distance separates familiar images from others.

    python experiments/alarm.py

Two networks: the reference convolutional network, trained on digits of EMNIST with three seeds, and the pretrained
MSDNet for CIFAR-100. An estimator of their dropout variation is fitted to training images. The other images are another
data set, near ones first, and synthetic ones (`data.ood`). Measures are the AUROC of −distance, with test images as the
positive class, beside that of the greatest probability and of a density of the features, and the share of the images at
a distance above 1. Nothing is fitted or selected on the other images. EMNIST, CIFAR-100 and Tiny ImageNet have to be
in the store. Prints a Markdown table and writes `alarm.json` beside this file; about ten minutes on one core.
"""

import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import suffice
from suffice import data, metrics
from suffice.calibration import density
from suffice.data import ood
from suffice.data.augment import Crop
from suffice.data.splits.images import Images
from suffice.network import ExitNetwork
from suffice.reproduce import ledger, markdown
from suffice.training import SGDConfig, train
from suffice.variation.estimator import VariationEstimator

SEEDS, DIGITS, EPOCHS = (0, 1, 2), 10, 6
TRAIN, VALIDATION, TEST = 10_000, 2_000, 2_000
"""Number of images of each part of both data sets; there are as many of each other kind as test images."""
PASSES, BATCH = 20, 250
SCORES = ("distance", "greatest probability", "density")


@dataclass(frozen=True)
class Case:
    """Network, images like those of its training, and others.

    Attributes:
        title: Name in the table.
        network: Trained network.
        estimator: Estimator of its dropout variation.
        train: Training images, to which the density is fitted.
        test: Test images.
        others: Images of other kinds by name, in the format of the test images.
    """

    title: str
    network: ExitNetwork
    estimator: VariationEstimator
    train: Images
    test: Images
    others: dict[str, Images]


def digits(seed: int) -> Case:
    """Train a network on digits."""
    sets = data.load("emnist-byclass", seed=seed)
    generator = torch.Generator().manual_seed(seed)
    pixels, labels = sets.train.images, sets.train.labels
    order = torch.randperm(len(labels), generator=generator)
    rows = order[labels[order] < DIGITS][: TRAIN + VALIDATION + TEST].split([TRAIN, VALIDATION, TEST])
    training, validation, test = (Images(pixels[part], labels[part]) for part in rows)
    letters = order[labels[order] >= DIGITS][:TEST]
    torch.manual_seed(seed)
    network = suffice.models.convnet(num_classes=DIGITS)
    shuffled = training.shuffled(64, generator=generator, augment=Crop(padding=1))
    train(network, shuffled, epochs=EPOCHS, optimizer=SGDConfig())
    teacher = suffice.MCDropout(rate=0.2, at=["stages.*"], passes=PASSES)
    estimator = _fitted(network.eval(), training, validation, teacher, seed)
    others = {
        "letters": Images(pixels[letters], labels[letters]),
        "CIFAR-100": _some(ood.match_format(_stored("cifar100"), test), generator),
        **_synthetic(test, generator),
    }
    return Case("digits of EMNIST, convolutional network", network, estimator, training, test, others)


def photographs(seed: int) -> Case:
    """Return the pretrained network for CIFAR-100."""
    sets, generator = data.load("cifar100", seed=0), torch.Generator().manual_seed(seed)
    network = suffice.models.pretrained("cifar100-msdnet-small").network
    training, validation, test = (
        _some(part, generator, count)
        for part, count in ((sets.train, TRAIN), (sets.validation, VALIDATION), (sets.test, TEST))
    )
    teacher = suffice.MCDropout(rate=0.2, at=["exits.3.features.0"], passes=PASSES)
    estimator = _fitted(network, training, validation, teacher, seed)
    others = {
        "Tiny ImageNet": _some(ood.match_format(_stored("tiny-imagenet"), test), generator),
        "EMNIST": _some(ood.match_format(_stored("emnist-byclass"), test), generator),
        **_synthetic(test, generator),
    }
    return Case("CIFAR-100, MSDNet small", network, estimator, training, test, others)


def _fitted(
    network: ExitNetwork, training: Images, validation: Images, teacher: suffice.MCDropout, seed: int
) -> VariationEstimator:
    loaders = (part.batches(BATCH, shuffle=False) for part in (training, validation))
    generator = torch.Generator().manual_seed(seed)
    return suffice.fit_variation(network, *loaders, teacher=teacher, layers="last", generator=generator)


def _stored(name: str) -> Images:
    """Return the test part of a data set."""
    part: Images = data.load(name, seed=0).test
    return part


def _some(images: Images, generator: torch.Generator, count: int = TEST) -> Images:
    """Draw images."""
    return replace(images.subset(torch.randperm(len(images), generator=generator)[:count]), training=False)


def _synthetic(test: Images, generator: torch.Generator) -> dict[str, Images]:
    return {kind: ood.synthetic(test, kind, generator=generator) for kind in ood.SYNTHETIC}


def measure(case: Case) -> dict[str, Any]:
    """Measure each score on each kind of images, and the share of images outside.

    Returns:
        "outside": share of the test images at a distance above 1. "others": for each kind "outside" and the AUROC of
        each score. "r_squared": quality of the estimator.
    """
    log_density = density.fit(case.network, case.train.batches(BATCH, shuffle=False))
    familiar = scores(case, log_density, case.test)
    others = {}
    for name, images in case.others.items():
        found = scores(case, log_density, images)
        positive = torch.arange(len(case.test) + len(images)) < len(case.test)
        areas = {score: float(metrics.auroc(torch.cat([familiar[score], found[score]]), positive)) for score in SCORES}
        others[name] = {"outside": float((found["distance"] < -1).double().mean()), "auroc": areas}
    outside = float((familiar["distance"] < -1).double().mean())
    return {"outside": outside, "others": others, "r_squared": case.estimator.quality.r_squared}


def scores(case: Case, log_density: density.DensityScore, images: Images) -> dict[str, Tensor]:
    """Compute each score (N,), higher for familiar images."""
    parts: dict[str, list[Tensor]] = {score: [] for score in SCORES}
    for x, _ in images.batches(BATCH, shuffle=False):
        with torch.no_grad():
            logits = case.network(x)[-1]
        parts["distance"].append(-case.estimator.estimate(x).distance)
        parts["greatest probability"].append(logits.log_softmax(dim=1).amax(dim=1))
        parts["density"].append(log_density(x))
    return {score: torch.cat(values).double() for score, values in parts.items()}


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Format the measures, mean ± standard deviation over the seeds, in percent."""
    lines = [
        f"| images | at a distance above 1, % | {' | '.join(f'AUROC, {score}' for score in SCORES)} |",
        f"|---|{'---|' * (1 + len(SCORES))}",
    ]
    for title, seeds in runs.items():
        lines.append(f"| **{title}**: test | {_spread([run['outside'] for run in seeds])} |{' |' * len(SCORES)}")
        for name in seeds[0]["others"]:
            found = [run["others"][name] for run in seeds]
            areas = (_spread([each["auroc"][score] for each in found]) for score in SCORES)
            lines.append(f"| {name} | {_spread([each['outside'] for each in found])} | {' | '.join(areas)} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return markdown.spread([100 * value for value in values], 1)


def main() -> None:
    """Run all seeds, write the JSON, and print the table."""
    torch.set_num_threads(1)
    runs: dict[str, list[dict[str, Any]]] = {}
    for make, seeds in ((digits, SEEDS), (photographs, SEEDS[:1])):
        for seed in seeds:
            case = make(seed)
            runs.setdefault(case.title, []).append(measure(case))
    results = {"command": "python experiments/alarm.py", **ledger.provenance(), "seeds": SEEDS, "runs": runs}
    ledger.write(Path(__file__).with_suffix(".json"), results)
    print(table(runs))
    print(f"R² {statistics.mean(run['r_squared'] for seeds in runs.values() for run in seeds):.3f}")


if __name__ == "__main__":
    main()
