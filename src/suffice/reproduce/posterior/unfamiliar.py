"""Out-of-distribution inputs: scores with a posterior, and the density of features, instead of a plain probability.

Networks learn some classes of a data set; images of the other classes are out-of-distribution.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from suffice import metrics
from suffice.calibration import density
from suffice.cost import Costs
from suffice.data.sources import digits
from suffice.data.splits.images import Images
from suffice.evaluation.cached import Features
from suffice.network import State
from suffice.reproduce.early_exit.overconfident_networks import pretrained_features, pretrained_network
from suffice.reproduce.posterior.comparison import Comparison, calibrate, classifier, fit, rows_per_class
from suffice.reproduce.posterior.few_examples import fit_exits, some

KNOWN_DIGITS = 7
KNOWN_CLASSES, PER_CLASS, VALIDATION, TEST = 50, 10, 500, 4000
"""Classes of CIFAR-100 that the exits learn, images of each, and images for calibration and for evaluation."""

ENTROPY = "the entropy without one"
"""Score without a posterior."""

Part = tuple[State, Tensor]
"""Inputs and labels."""


def of_digits(seed: int) -> list[Comparison]:
    """Compare scores of a network on the first seven digits, with the other three as out-of-distribution inputs."""
    data = digits.load(seed)
    train, validation, test = (_known_digits(split) for split in (data.train, data.validation, data.test))
    unknown = data.test.images[data.test.labels >= KNOWN_DIGITS]
    network = fit(classifier(64, KNOWN_DIGITS, seed), *train)
    return compare(network, train, validation, test, unknown, seed)


def _known_digits(split: Images) -> Part:
    known = split.labels < KNOWN_DIGITS
    return split.images[known], split.labels[known]


def of_exits(seed: int) -> list[Comparison]:
    """Compare scores of exits for 50 random classes of CIFAR-100, with the others as out-of-distribution inputs."""
    frozen, costs = pretrained_network()
    held_out, test = pretrained_features("validation"), some(pretrained_features("test"), TEST, seed)
    classes = torch.randperm(100, generator=torch.Generator().manual_seed(seed))
    held_out, _ = _known(held_out, classes)
    familiar, unknown = _known(test, classes)
    chosen, others = rows_per_class(held_out.labels, PER_CLASS, torch.Generator().manual_seed(seed))
    train, validation = held_out.subset(chosen), held_out.subset(others[:VALIDATION])
    network = fit_exits(frozen, train, seed, classes=KNOWN_CLASSES)
    first, second, third = ((part.phi, part.labels) for part in (train, validation, familiar))
    return compare(network, first, second, third, unknown.phi, seed, costs)


def _known(features: Features, classes: Tensor) -> tuple[Features, Features]:
    """Return examples of the first classes, with their positions in `classes` as labels, and the other examples."""
    labels = classes.argsort()[features.labels]
    known = labels < KNOWN_CLASSES
    renamed = Features(features.phi, labels, features.size)
    return renamed.subset(known.nonzero()[:, 0]), renamed.subset((~known).nonzero()[:, 0])


def compare(
    network: nn.Module, train: Part, validation: Part, test: Part, unknown: State, seed: int, costs: Costs | None = None
) -> list[Comparison]:
    """Compare scores by their AUROC, with test inputs as the positive class."""
    plain = calibrate(network, None, [validation], seed, structure=None, costs=costs)
    sampled = calibrate(network, [train], [validation], seed, link="sampled", costs=costs)
    evident = calibrate(network, [train], [validation], seed, tuning="evidence", costs=costs)
    log_density = density.fit(network, [train])
    scores: dict[str, Callable[[State], Tensor]] = {
        ENTROPY: lambda x: -plain(x)[-1].entropy,
        "entropy with a posterior": lambda x: -sampled(x)[-1].entropy,
        "epistemic entropy": lambda x: -sampled(x)[-1].epistemic,
        "entropy with a posterior by evidence": lambda x: -evident(x)[-1].entropy,
        "epistemic entropy by evidence": lambda x: -evident(x)[-1].epistemic,
        "density of the features": log_density,
    }
    positive = torch.arange(len(test[1]) + len(_first(unknown))) < len(test[1])
    auroc = {
        name: float(metrics.auroc(torch.cat([function(test[0]), function(unknown)]), positive))
        for name, function in scores.items()
    }
    plain_entropy = auroc.pop(ENTROPY)
    return [Comparison(name, ENTROPY, "AUROC", plain_entropy, value) for name, value in auroc.items()]


def _first(state: State) -> Tensor:
    first: Tensor = state[0] if isinstance(state, list) else state
    return first
