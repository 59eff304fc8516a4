"""Classifiers of few examples: with a posterior beside a temperature, and with one where no data tune a temperature.

The data are scikit-learn's digits and its table on breast cancer, and features of the pretrained CIFAR-100 network at
its four exits, whose classifiers are fitted anew to images that the stages were not trained on.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from suffice import evaluation
from suffice.batches import Loader
from suffice.calibration import likelihoods
from suffice.cost import Costs
from suffice.data.sources import digits
from suffice.evaluation.cached import Features
from suffice.network import ExitNetwork
from suffice.reproduce.early_exit.overconfident_networks import pretrained_features, pretrained_network
from suffice.reproduce.posterior.comparison import Comparison, calibrate, classifier, fit, rows_per_class
from suffice.training import losses

VALIDATION, IMAGES, TEST = 100, 500, 2000
"""Examples that a temperature is tuned on, and images of CIFAR-100 for calibration and for evaluation."""
MEASURES = ("nll", "ece")


def of_digits(seed: int, *, per_class: int) -> list[Comparison]:
    """Compare a network on digits, with few images of each class."""
    data = digits.load(seed, validation=VALIDATION)
    chosen, _ = rows_per_class(data.train.labels, per_class, torch.Generator().manual_seed(seed))
    train = data.train.subset(chosen)
    validation, test = data.validation.batches(), data.test.batches()
    network = fit(classifier(64, digits.CLASSES, seed), train.images, train.labels)
    return compare(network, train.batches(shuffle=False), validation, test, seed)


def of_tumors(seed: int, *, per_class: int) -> list[Comparison]:
    """Compare a network with one logit on breast cancer, with few patients of each class."""
    from sklearn.datasets import load_breast_cancer

    table, target = load_breast_cancer(return_X_y=True)
    y = torch.from_numpy(target)
    chosen, others = rows_per_class(y, per_class, torch.Generator().manual_seed(seed))
    x = torch.from_numpy(table).float()
    x = (x - x[chosen].mean(dim=0)) / x[chosen].std(dim=0)
    train, validation, test = ((x[rows], y[rows]) for rows in (chosen, others[:VALIDATION], others[VALIDATION:]))
    network = classifier(x.shape[1], 1, seed)
    fit(network, *train, _one_logit)
    return compare(network, [train], [validation], [test], seed, likelihood="binary")


def _one_logit(logits: Tensor, labels: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(logits[:, 0], labels.float())


def of_exits(seed: int, *, per_class: int) -> list[Comparison]:
    """Compare four exits for the 100 classes of CIFAR-100, with few images of each class."""
    frozen, costs = pretrained_network()
    held_out = pretrained_features("validation")
    chosen, others = rows_per_class(held_out.labels, per_class, torch.Generator().manual_seed(seed))
    train, validation = held_out.subset(chosen), held_out.subset(others[:IMAGES])
    test = some(pretrained_features("test"), TEST, seed)
    return compare(fit_exits(frozen, train, seed), train, validation, test, seed, costs=costs)


def some(features: Features, count: int, seed: int) -> Features:
    """Return random examples."""
    return features.subset(torch.randperm(len(features.labels), generator=torch.Generator().manual_seed(seed))[:count])


def fit_exits(frozen: ExitNetwork, train: Features, seed: int, classes: int = 100) -> ExitNetwork:
    """Return a network over features with new classifiers that are fitted to examples."""
    network = copy.deepcopy(frozen)
    torch.manual_seed(seed)
    for exit_ in network.exits:
        exit_.classifier = nn.Linear(exit_.classifier.in_features, classes)  # type: ignore[union-attr,arg-type]
    fit(network, train.phi, train.labels, losses.summed)
    return network


def compare(
    network: nn.Module,
    train: Loader,
    validation: Loader,
    test: Loader,
    seed: int,
    *,
    likelihood: likelihoods.Name = "classification",
    costs: Costs | None = None,
) -> list[Comparison]:
    """Compare calibrations with and without a posterior and validation data, by NLL and ECE averaged over the exits."""

    def measures(train: Loader | None, validation: Loader | None, **choices: Any) -> dict[str, float]:
        calibrated = calibrate(network, train, validation, seed, likelihood=likelihood, costs=costs, **choices)
        exits = evaluation.per_exit(evaluation.predict(calibrated, test))
        return {name: sum(at[name] for at in exits) / len(exits) for name in MEASURES}

    temperature = measures(None, validation, structure=None)
    laplace = measures(train, validation, link="sampled")
    chosen = measures(train, validation)
    vanilla = measures(None, validation, structure=None, temperature=False, ensemble_weights="cost")
    evident = measures(train, validation, tuning="evidence")
    alone = measures(train, None, tuning="evidence")
    pairs = [
        ("posterior and temperature", "a temperature", temperature, laplace),
        ("posterior by evidence and temperature", "a temperature", temperature, evident),
        ("the default, which chooses", "a temperature", temperature, chosen),
        ("posterior by evidence, no validation data", "nothing", vanilla, alone),
    ]
    return [
        Comparison(posterior, instead_of, name.upper(), without[name], having[name])
        for posterior, instead_of, without, having in pairs
        for name in MEASURES
    ]
