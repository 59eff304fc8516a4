"""Calibrate a trained network: one statistics pass, one cached tuning pass, no gradients through the network.

The first pass sums what the posterior needs over the training data; the second caches logits and features of
the validation data, on which prior precision and temperature are tuned. The network is never run again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from suffice import batches, cost
from suffice.batches import Loader
from suffice.calibration import tuning
from suffice.calibration.calibrated import Calibrated, member_weights, serving_placement
from suffice.calibration.exits import CalibratedExit, Link, with_bias
from suffice.calibration.moments import check_samples
from suffice.calibration.posterior import kronecker
from suffice.calibration.posterior.kronecker import Prior
from suffice.cost import Costs
from suffice.network import ExitNetwork, State, check_finite, fingerprint, inference

Structure = Literal["kronecker"]


def calibrate(
    network: ExitNetwork,
    train_loader: Loader,
    val_loader: Loader,
    *,
    structure: Structure | None = "kronecker",
    prior: Prior = "exact",
    link: Link = "sampled",
    temperature: bool = True,
    ensemble: bool = True,
    samples: int = 32,
    generator: torch.Generator | None = None,
) -> Calibrated:
    """Give every exit of a trained network a posterior, a temperature and its place in the ensemble.

    Args:
        network: a trained network with exits. It is left in evaluation mode.
        train_loader: batches `(x, y)` that the network was trained on, without augmentation; read once, and
            not at all where `structure` is None. Its labels are not used.
        val_loader: labelled batches that the network was not trained on, as they will be met in use; read
            once. Prior precision and temperature are tuned on them.
        structure: form of the posterior over an exit's classifier, or None for no posterior.
        prior: how the prior precision δ enters a Kronecker posterior: "exact" U⊗A + δI, or the paper's
            "factored" form.
        link: "sampled" averages the softmax over `samples` fixed joint samples; "plugin" keeps the network's
            own answer (the posterior is then there to be asked, and δ stays 1).
        temperature: tune a temperature per exit; otherwise 1.
        ensemble: answer at exit k with the weighted average of exits up to k.
        samples: S, an even number, for the sampled link.
        generator: randomness of the samples, on the CPU; the same state gives the same bytes.

    Returns:
        A `Calibrated`, whose call gives one `Prediction` per exit.

    Raises:
        TypeError: if the network is not an `ExitNetwork`.
        ValueError: for an empty loader, labels out of range, or inputs or features that are not finite.
    """
    _check_choices(network, structure, prior, link, samples)
    exits = [CalibratedExit(temperature=1.0, bias=bias) for bias in _biases(network)]
    if structure is not None:
        posteriors = _statistics_pass(network, train_loader, prior)
        exits = [replace(exit_, posterior=fit) for exit_, fit in zip(exits, posteriors, strict=True)]
        if link == "sampled":
            exits = [exit_.with_samples(samples, generator) for exit_ in exits]
        exits = [exit_.to(*serving_placement(network)) for exit_ in exits]
    caches, labels, costs = _tuning_pass(network, exits, val_loader)
    weights = member_weights(costs) if ensemble else None
    exits = tuning.tune(exits, caches, labels, weights, temperature)
    return Calibrated(network, exits, ensemble, costs, fingerprint(network))


def _check_choices(network: object, structure: object, prior: object, link: object, samples: int) -> None:
    if not isinstance(network, ExitNetwork):
        raise TypeError(
            f"expected a suffice.ExitNetwork, got {type(network).__name__}; "
            "build one of stages and exits, ExitNetwork([stage], [Exit(features, classifier)])"
        )
    for name, value, allowed in [
        ("structure", structure, ("kronecker", None)),
        ("prior", prior, ("exact", "factored")),
        ("link", link, ("sampled", "plugin")),
    ]:
        if value not in allowed:
            raise ValueError(f"expected {name} to be one of {allowed}, got {value!r}")
    check_samples(samples)


def _exit_pass(network: ExitNetwork, inputs: State, start: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Exit number, φ (N, D) and logits (N, C) of a batch at each exit, checked."""
    state = inputs
    for k in range(len(network.exits)):
        state, phi = network.advance(k, state)
        check_finite(phi, f"features at exit {k}", start)
        logits = network.exit(k).classifier(phi)
        check_finite(logits, f"logits at exit {k}", start)
        yield k, phi, logits


def _biases(network: ExitNetwork) -> list[bool]:
    return [network.exit(k).classifier.bias is not None for k in range(len(network.exits))]


def _statistics_pass(network: ExitNetwork, loader: Loader, prior: Prior) -> list[kronecker.Posterior]:
    """Posterior of every exit, from one pass over the training data."""
    statistics: dict[int, kronecker.Statistics] = {}
    biases = _biases(network)
    with inference(network):
        for batch in batches.read(loader, network):
            for k, phi, logits in _exit_pass(network, batch.inputs, batch.start):
                phi = with_bias(phi, biases[k])
                if k not in statistics:
                    statistics[k] = kronecker.init(phi.shape[1], logits.shape[1], phi.device)
                statistics[k] = kronecker.update(statistics[k], phi, logits)
    return [kronecker.Posterior.fit(sums, prior=prior) for sums in statistics.values()]


def _tuning_pass(
    network: ExitNetwork, exits: Sequence[CalibratedExit], loader: Loader
) -> tuple[list[tuning.Cache], Tensor, Costs]:
    """Logits and spectra of the validation set at every exit, its labels, and the network's costs."""
    logits: list[list[Tensor]] = [[] for _ in exits]
    spectra: list[list[Tensor]] = [[] for _ in exits]
    labels, costs = [], None
    with inference(network):
        for batch, y in batches.read_labelled(loader, network, network.num_classes):
            costs = costs or cost.count(network, batch.inputs)
            labels.append(y)
            for k, phi, z in _exit_pass(network, batch.inputs, batch.start):
                dtype = torch.promote_types(phi.dtype, torch.float32)
                logits[k].append(z.to(dtype))
                if exits[k].samples:
                    spectra[k].append(exits[k].spectrum(phi.to(dtype)))
    assert costs is not None
    caches = [tuning.Cache(torch.cat(z), torch.cat(s) if s else None) for z, s in zip(logits, spectra, strict=True)]
    return caches, torch.cat(labels), costs
