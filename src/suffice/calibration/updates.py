"""Updates of calibrated exits with more data, and for a network with more classes.

A posterior reconstructs the sums of its fit. New sums are added, or zeros for new classes, and the result is decomposed
again. The prior, the temperature and, for the same classes, the randomness of the samples are preserved.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from suffice.batches import Loader
from suffice.calibration.exits import CalibratedExit
from suffice.calibration.posterior import STRUCTURES, check_memory
from suffice.calibration.statistics import add_examples
from suffice.cost import Costs
from suffice.network import ExitNetwork, placement
from suffice.storage.fingerprint import fingerprint_of_rows


def with_more_data(exits: Sequence[CalibratedExit], network: ExitNetwork, loader: Loader) -> list[CalibratedExit]:
    """Refit the exits with the examples of a loader added to those of the earlier fit; the loader is read once."""
    posteriors = [exit_.require_posterior() for exit_ in exits]
    sums = [posterior.statistics() for posterior in posteriors]
    sums = add_examples(network, loader, posteriors[0].structure, exits, sums)
    zipped = zip(exits, posteriors, sums, strict=True)
    return [exit_.with_same_samples(posterior.refit(total)) for exit_, posterior, total in zipped]


def with_more_classes(
    exits: Sequence[CalibratedExit], network: ExitNetwork, generator: torch.Generator | None
) -> list[CalibratedExit]:
    """Refit the exits for a network with additional classes, whose weights have their prior only."""
    return [_wider(exit_, network, k, generator) for k, exit_ in enumerate(exits)]


def check_wider(network: ExitNetwork, classes: int, network_hash: str) -> None:
    """Raise a ValueError unless a network is the calibrated one with additional classes after its `classes`.

    Raises:
        ValueError: If it has no additional class, or other weights differ than the rows of additional classes.
    """
    if network.num_classes <= classes:
        raise ValueError(f"expected a network for more than {classes} classes, got one for {network.num_classes}")
    classifiers = [network.exit(k).classifier for k in range(len(network.exits))]
    rows = [p for each in classifiers for p in each.parameters() if p.ndim and len(p) == each.out_features]
    if fingerprint_of_rows(network, rows, classes) != network_hash:
        raise ValueError(
            f"expected the calibrated weights except for rows from {classes} on of every classifier, got others; "
            "copy the calibrated weights, or calibrate again"
        )


def wider_costs(costs: Costs, network: ExitNetwork, more: int) -> Costs:
    """Return the costs with `more` additional classes at every exit."""
    macs = [before + more * network.exit(k).classifier.in_features for k, before in enumerate(costs.exits)]
    return replace(costs, exits=tuple(macs))


def _wider(exit_: CalibratedExit, network: ExitNetwork, k: int, generator: torch.Generator | None) -> CalibratedExit:
    posterior, classifier = exit_.posterior, network.exit(k).classifier
    if posterior is None:
        return exit_
    features, classes = classifier.in_features + (exit_.bias is not None), classifier.out_features
    check_memory(posterior.structure, [features], classes, placement(network)[0])
    sums = STRUCTURES[posterior.structure].widen(posterior.statistics(), classes)
    return exit_.with_posterior(posterior.refit(sums), exit_.link, exit_.samples, generator)
