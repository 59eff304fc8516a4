"""Statistics pass: one reading of the training data sums the statistics of every exit's posterior."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from suffice import batches
from suffice.attach import contract
from suffice.attach.whole import Batch, compared
from suffice.batches import Loader
from suffice.calibration import likelihoods
from suffice.calibration.exits import CalibratedExit, with_bias
from suffice.calibration.likelihoods import linear
from suffice.calibration.posterior import STRUCTURES, Structure, check_memory
from suffice.network import ExitNetwork, State, check_finite, placement
from suffice.twin import inference


def bias_constants(network: ExitNetwork, bias_precision: float = 1.0) -> list[float | None]:
    """Return 1/√β for each exit whose classifier has a bias, else None; the prior precision of the bias is then βδ."""
    classifiers = (network.exit(k).classifier for k in range(len(network.exits)))
    return [None if classifier.bias is None else bias_precision**-0.5 for classifier in classifiers]


def empty_statistics(network: ExitNetwork, structure: Structure, latents: int) -> list[Any]:
    """Return zero statistics for every exit of a network, over its first `latents` outputs.

    Raises:
        MemoryError: If the structure would not fit.
    """
    device, widths = placement(network)[0], _widths(network)
    check_memory(structure, widths, latents, device)
    return [STRUCTURES[structure].init(features, latents, device) for features in widths]


def add_examples(
    network: ExitNetwork, loader: Loader, structure: Structure, exits: Sequence[CalibratedExit], sums: Sequence[Any]
) -> list[Any]:
    """Return the statistics of every exit with the examples of a loader added; the loader is read once."""
    update, sums = STRUCTURES[structure].update, list(sums)
    with inference(network) as network:
        for batch in batches.read(loader, network):
            for k, phi, outputs in exit_pass(network, batch.inputs, batch.start):
                exit_ = exits[k]
                sums[k] = update(sums[k], with_bias(phi, exit_.bias), outputs, exit_.likelihood.curvature)
    return sums


def residual_statistics(
    network: ExitNetwork, loader: Loader, exits: Sequence[CalibratedExit]
) -> list[linear.Statistics]:
    """Sum the statistics of a linear regression on the features of every exit; the loader is read once.

    Raises:
        MemoryError: If they would not fit.
    """
    device, outputs, widths = placement(network)[0], network.num_classes, _widths(network)
    check_memory("kronecker", widths, outputs, device)
    sums = [linear.init(features, outputs, device) for features in widths]
    with inference(network) as network:
        for batch, targets in likelihoods.read(loader, network, exits[0].likelihood):
            for k, phi, means in exit_pass(network, batch.inputs, batch.start):
                sums[k] = linear.update(sums[k], with_bias(phi, exits[k].bias), means, targets)
    return sums


def _widths(network: ExitNetwork) -> list[int]:
    """Return the width D of φ at every exit, the constant of a bias included."""
    classifiers = (network.exit(k).classifier for k in range(len(network.exits)))
    return [classifier.in_features + (classifier.bias is not None) for classifier in classifiers]


def exit_pass(network: ExitNetwork, inputs: State, start: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Run a batch through the network and check features and outputs.

    The last exit's outputs are compared with what the model returns, where its pass can run on behind the classifier
    (`suffice.attach.whole`). The first batch (`start` = 0) also checks the contract of stages and exits
    (`suffice.attach.contract`).

    Yields:
        Number of the exit, its features φ (N, D) and its outputs (N, C).

    Raises:
        ValueError: If features or outputs are not finite, the network violates the contract, or the model changes its
            logits behind the classifier.
    """
    if start == 0:
        contract.check(network, inputs)
    state, compared_batch = inputs, Batch(start)
    for k in range(len(network.exits)):
        with compared(compared_batch):
            state, phi = network.advance(k, state)
        check_finite(phi, f"features at exit {k}", start)
        logits = network.exit(k).classifier(phi)
        check_finite(logits, f"logits at exit {k}", start)
        yield k, phi, logits
