"""The statistics pass: what every exit's posterior is summed from, in one reading of the training data."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from suffice import batches
from suffice.attach import contract
from suffice.batches import Loader
from suffice.calibration import likelihoods
from suffice.calibration.exits import CalibratedExit, with_bias
from suffice.calibration.likelihoods import linear
from suffice.calibration.posterior import STRUCTURES, Structure, check_memory
from suffice.network import ExitNetwork, State, check_finite, placement
from suffice.twin import inference


def bias_constants(network: ExitNetwork, bias_precision: float = 1.0) -> list[float | None]:
    """1/√β for each exit whose classifier has a bias, else None: its prior precision is then βδ."""
    classifiers = (network.exit(k).classifier for k in range(len(network.exits)))
    return [None if classifier.bias is None else bias_precision**-0.5 for classifier in classifiers]


def no_examples(network: ExitNetwork, structure: Structure, latents: int) -> list[Any]:
    """Statistics of no example for every exit of a network, over its first `latents` outputs.

    Raises:
        MemoryError: for a structure that would not fit.
    """
    device, sums = placement(network)[0], []
    for features in _widths(network):
        check_memory(structure, features, latents, device)
        sums.append(STRUCTURES[structure].init(features, latents, device))
    return sums


def with_examples(
    network: ExitNetwork, loader: Loader, structure: Structure, exits: Sequence[CalibratedExit], sums: Sequence[Any]
) -> list[Any]:
    """Statistics of every exit with the examples of a loader, read once, added to them."""
    update, sums = STRUCTURES[structure].update, list(sums)
    with inference(network) as network:
        for batch in batches.read(loader, network):
            for k, phi, outputs in exit_pass(network, batch.inputs, batch.start):
                own = exits[k]
                sums[k] = update(sums[k], with_bias(phi, own.bias), outputs, own.likelihood.curvature)
    return sums


def residuals(network: ExitNetwork, loader: Loader, exits: Sequence[CalibratedExit]) -> list[linear.Statistics]:
    """Statistics of a linear regression on every exit's features, of the examples of a loader, read once.

    Raises:
        MemoryError: if they would not fit.
    """
    device, outputs = placement(network)[0], network.num_classes
    for features in _widths(network):
        check_memory("kronecker", features, outputs, device)
    sums = [linear.init(features, outputs, device) for features in _widths(network)]
    with inference(network) as network:
        for batch, targets in likelihoods.read(loader, network, exits[0].likelihood):
            for k, phi, means in exit_pass(network, batch.inputs, batch.start):
                sums[k] = linear.update(sums[k], with_bias(phi, exits[k].bias), means, targets)
    return sums


def _widths(network: ExitNetwork) -> list[int]:
    """D of every exit, the constant of a bias included."""
    classifiers = (network.exit(k).classifier for k in range(len(network.exits)))
    return [classifier.in_features + (classifier.bias is not None) for classifier in classifiers]


def exit_pass(network: ExitNetwork, inputs: State, start: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Exit number, φ (N, D) and outputs (N, C) of a batch at each exit, checked; the first batch checks the network."""
    if start == 0:
        contract.check(network, inputs)
    state = inputs
    for k in range(len(network.exits)):
        state, phi = network.advance(k, state)
        check_finite(phi, f"features at exit {k}", start)
        logits = network.exit(k).classifier(phi)
        check_finite(logits, f"logits at exit {k}", start)
        yield k, phi, logits
