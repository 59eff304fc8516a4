"""Inputs that differ from those of the calibration, and continual updates of a posterior with inputs.

The posterior of these cases maximizes the evidence, as one that is tuned on inputs like the training data vanishes.
"""

from functools import cache

import torch

from suffice import evaluation
from suffice.batches import Loader
from suffice.calibration.calibrated import Calibrated
from suffice.data import corruptions
from suffice.data.sources import digits
from suffice.data.splits.images import Images
from suffice.evaluation import cached
from suffice.evaluation.cached import Features
from suffice.models import zoo
from suffice.reproduce.early_exit import overconfident_networks
from suffice.reproduce.early_exit.msdnets import BATCH
from suffice.reproduce.early_exit.overconfident_networks import PRETRAINED, pretrained_features
from suffice.reproduce.posterior.comparison import Comparison, calibrate, classifier, fit, rows_per_class
from suffice.reproduce.posterior.few_examples import fit_exits

PER_CLASS, VALIDATION, TEST = 20, 500, 2000
"""Training images of each class, and images of CIFAR-100 for calibration and for evaluation."""
CORRUPTION, STRENGTH = "noise", 3
BEFORE, TEMPERATURE = "the posterior before", "a temperature"


def of_digits(seed: int, *, share: float) -> list[Comparison]:
    """Compare a network on clean digits on a test part, of which a share is shifted or noisy, as the inputs it sees."""
    data = digits.load(seed, share=0.0)
    generator = torch.Generator().manual_seed(seed)
    chosen, others = rows_per_class(data.train.labels, PER_CLASS, generator)
    train, unseen = data.train.subset(chosen), data.train.subset(others)
    stream, test = (
        Images(digits.perturb(part.images, share, generator=generator), part.labels) for part in (unseen, data.test)
    )
    network = fit(classifier(64, digits.CLASSES, seed), train.images, train.labels)
    loaders = train.batches(shuffle=False), data.validation.batches()
    plain = calibrate(network, *loaders, seed, structure=None)
    sampled = calibrate(network, *loaders, seed, tuning="evidence")
    updated = sampled.update(stream.batches(shuffle=False))
    return [
        *compare("posterior by evidence", TEMPERATURE, plain, sampled, test.batches()),
        *compare("posterior after an update", TEMPERATURE, plain, updated, test.batches()),
        *compare("posterior after an update", BEFORE, sampled, updated, test.batches()),
    ]


def of_exits(seed: int) -> list[Comparison]:
    """Compare exits for CIFAR-100 that were fitted and calibrated on clean images, on images with noise."""
    frozen, costs = overconfident_networks.pretrained_network()
    held_out = pretrained_features("validation")
    chosen, others = rows_per_class(held_out.labels, PER_CLASS, torch.Generator().manual_seed(seed))
    train, validation = held_out.subset(chosen), held_out.subset(others[:VALIDATION])
    network = fit_exits(frozen, train, seed)
    plain = calibrate(network, None, validation, seed, structure=None, costs=costs)
    sampled = calibrate(network, train, validation, seed, tuning="evidence", costs=costs)
    return compare("posterior by evidence", TEMPERATURE, plain, sampled, _corrupted_features())


@cache
def _corrupted_features() -> Features:
    """Compute features of random test images of CIFAR-100 with noise."""
    images = overconfident_networks.load(0).test
    assert isinstance(images, Images)
    generator = torch.Generator().manual_seed(0)
    some = images.subset(torch.randperm(len(images), generator=generator)[:TEST])
    corrupted = corruptions.corrupt_split(some, CORRUPTION, STRENGTH, generator=generator)
    return cached.compute(zoo.pretrained(PRETRAINED).network, corrupted.batches(BATCH))


def compare(posterior: str, instead_of: str, without: Calibrated, having: Calibrated, test: Loader) -> list[Comparison]:
    """Compare two calibrations of one network by NLL and ECE, averaged over the exits."""
    before, after = (evaluation.per_exit(evaluation.predict(each, test)) for each in (without, having))
    return [
        Comparison(posterior, instead_of, name.upper(), *(sum(at[name] for at in e) / len(e) for e in (before, after)))
        for name in ("nll", "ece")
    ]
