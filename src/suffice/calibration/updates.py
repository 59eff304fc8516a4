"""What an exit learned, carried over: to more data, and to a network with more classes.

A posterior gives back the sums that it was fitted to; new sums are added, or room is made for the new classes,
and it is decomposed again. Prior, temperature and, where the classes are the same, the samples' randomness stay.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch

from suffice.batches import Loader
from suffice.calibration.exits import CalibratedExit
from suffice.calibration.posterior import STRUCTURES, check_memory
from suffice.calibration.statistics import with_examples
from suffice.cost import Costs
from suffice.network import ExitNetwork, placement
from suffice.storage.fingerprint import fingerprint_of_rows


def with_more_data(exits: Sequence[CalibratedExit], network: ExitNetwork, loader: Loader) -> list[CalibratedExit]:
    """Exits, decomposed in float64, with the examples of a loader, read once, added to what they were fitted to."""
    posteriors = [exit_.known_posterior() for exit_ in exits]
    sums = [posterior.statistics() for posterior in posteriors]
    sums = with_examples(network, loader, posteriors[0].structure, exits, sums)
    zipped = zip(exits, posteriors, sums, strict=True)
    return [exit_.with_same_samples(posterior.refit(own)) for exit_, posterior, own in zipped]


def with_more_classes(
    exits: Sequence[CalibratedExit], network: ExitNetwork, generator: torch.Generator | None
) -> list[CalibratedExit]:
    """Exits, decomposed in float64, for a network with further classes of which the prior is all that is known."""
    return [_wider(exit_, network, k, generator) for k, exit_ in enumerate(exits)]


def check_wider(network: ExitNetwork, classes: int, network_hash: str) -> None:
    """Refuse a network that is not a calibrated one with further classes behind the `classes` that it had.

    Raises:
        ValueError: if it has no more classes, or other weights but for their rows.
    """
    if network.num_classes <= classes:
        raise ValueError(f"expected a network for more than {classes} classes, got one for {network.num_classes}")
    rows = [p for k in range(len(network.exits)) for p in network.exit(k).classifier.parameters()]
    if fingerprint_of_rows(network, rows, classes) != network_hash:
        raise ValueError(
            f"expected the weights that were calibrated in all but rows from {classes} on of every classifier, got "
            "others; copy them, or calibrate again"
        )


def wider_costs(costs: Costs, network: ExitNetwork, more: int) -> Costs:
    """Costs with those of `more` classes at every exit."""
    macs = [own + more * network.exit(k).classifier.in_features for k, own in enumerate(costs.exits)]
    return replace(costs, exits=tuple(macs))


def _wider(exit_: CalibratedExit, network: ExitNetwork, k: int, generator: torch.Generator | None) -> CalibratedExit:
    posterior, classifier = exit_.posterior, network.exit(k).classifier
    if posterior is None:
        return exit_
    features, classes = classifier.in_features + (exit_.bias is not None), classifier.out_features
    check_memory(posterior.structure, features, classes, placement(network)[0])
    sums = STRUCTURES[posterior.structure].widen(posterior.statistics(), classes)
    return exit_.with_posterior(posterior.refit(sums), exit_.link, exit_.samples, generator)
