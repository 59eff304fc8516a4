"""The statistics pass: what every exit's posterior is summed from, in one reading of the training data."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from suffice import batches, contract
from suffice.batches import Loader
from suffice.calibration.exits import with_bias
from suffice.calibration.posterior import STRUCTURES, Structure, check_memory
from suffice.network import ExitNetwork, State, check_finite, inference


def bias_constants(network: ExitNetwork, bias_precision: float = 1.0) -> list[float | None]:
    """1/√β for each exit whose classifier has a bias, else None: its prior precision is then βδ."""
    classifiers = (network.exit(k).classifier for k in range(len(network.exits)))
    return [None if classifier.bias is None else bias_precision**-0.5 for classifier in classifiers]


def no_examples(network: ExitNetwork, structure: Structure) -> list[Any]:
    """Statistics of no example for every exit of a network.

    Raises:
        MemoryError: for a structure that would not fit.
    """
    device, sums = batches.placement(network)[0], []
    for k in range(len(network.exits)):
        classifier = network.exit(k).classifier
        features = classifier.in_features + (classifier.bias is not None)
        check_memory(structure, features, classifier.out_features, device)
        sums.append(STRUCTURES[structure].init(features, classifier.out_features, device))
    return sums


def with_examples(
    network: ExitNetwork, loader: Loader, structure: Structure, biases: Sequence[float | None], sums: Sequence[Any]
) -> list[Any]:
    """Statistics of every exit with the examples of a loader, read once, added to them."""
    update, sums = STRUCTURES[structure].update, list(sums)
    with inference(network):
        for batch in batches.read(loader, network):
            for k, phi, logits in exit_pass(network, batch.inputs, batch.start):
                sums[k] = update(sums[k], with_bias(phi, biases[k]), logits)
    return sums


def exit_pass(network: ExitNetwork, inputs: State, start: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Exit number, φ (N, D) and logits (N, C) of a batch at each exit, checked; the first batch checks the network."""
    if start == 0:
        contract.check(network, inputs)
    state = inputs
    for k in range(len(network.exits)):
        state, phi = network.advance(k, state)
        check_finite(phi, f"features at exit {k}", start)
        logits = network.exit(k).classifier(phi)
        check_finite(logits, f"logits at exit {k}", start)
        yield k, phi, logits
