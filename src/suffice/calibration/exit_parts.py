"""Exits in an artifact of a calibrated network: reading, consistency and digest."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from suffice.calibration.ensemble import Combination
from suffice.calibration.exits import CalibratedExit
from suffice.network import ExitNetwork
from suffice.storage.parts import Parts

ENSEMBLES: dict[bool | str, Combination] = {True: "average", "product": "product", False: False}
"""Ensembles by their value in an artifact."""


def read_exits(parts: Parts, network: ExitNetwork) -> list[CalibratedExit]:
    """Restore the exits of a network from the parts of an artifact.

    Raises:
        ValueError: If their number differs from that of the network, or a part is invalid.
    """
    exit_parts = parts.each("exits", "exit")
    if len(exit_parts) != len(network.exits):
        parts.refuse("exits", f"{len(network.exits)}, one for each exit of the network", len(exit_parts))
    classifiers = [network.exit(k).classifier for k in range(len(exit_parts))]
    return [CalibratedExit.from_parts(*pair) for pair in zip(exit_parts, classifiers, strict=True)]


def check_consistent(parts: Parts, exits: Sequence[CalibratedExit], ensemble: Combination) -> None:
    """Raise a ValueError for exits that cannot come from one calibration or cannot form the ensemble."""
    kinds = {
        (exit_.likelihood.name, exit_.posterior and exit_.posterior.structure, exit_.weight is not None)
        for exit_ in exits
    }
    if len(kinds) > 1:
        parts.refuse("exits", "of one likelihood and structure, all with a weight or none", kinds)
    links = {exit_.link for exit_ in exits if exit_.uses_posterior}
    if len(links) > 1:
        parts.refuse("exits", "of one link, where they use their posteriors", links)
    (name, _, weighted) = kinds.pop()
    if weighted and not ensemble:
        parts.refuse("exits", "without weights, as there is no ensemble", "weights")
    if ensemble == "product" and not exits[0].likelihood.discrete:
        parts.refuse("ensemble", f"true or false with likelihood {name!r}", ensemble)


def digest(configuration: Mapping[str, Any], exits: Sequence[CalibratedExit]) -> str:
    """Return a SHA-256 of the configuration of an artifact and the tuned values of its exits."""
    tuned = [[exit_.prior_precision, exit_.class_precision, exit_.samples, exit_.noise_variance] for exit_ in exits]
    hashed = {key: value for key, value in configuration.items() if key != "structure"}
    return hashlib.sha256(json.dumps([hashed, tuned]).encode()).hexdigest()
