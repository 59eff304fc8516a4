"""Calibrate a trained network: one statistics pass, one cached tuning pass, no gradients through the network.

The first pass sums what the posterior needs over the training data; the second caches logits and features of
the validation data, on which prior precision and temperature are tuned. The network is never run again.
"""

from collections.abc import Iterator, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn

from suffice import batches, cost
from suffice.batches import Loader
from suffice.calibration import tuning
from suffice.calibration.calibrated import Calibrated, member_weights, serving_placement
from suffice.calibration.exits import CalibratedExit, Link, with_bias
from suffice.calibration.moments import check_samples
from suffice.calibration.posterior import STRUCTURES, Posterior, Structure, check_memory
from suffice.calibration.posterior.kronecker import Prior
from suffice.cost import Costs
from suffice.network import ExitNetwork, State, check_finite, fingerprint, inference
from suffice.plain import from_loader


def calibrate(
    network: nn.Module,
    train_loader: Loader,
    val_loader: Loader,
    *,
    structure: Structure | None = "kronecker",
    prior: Prior = "exact",
    link: Link = "sampled",
    temperature: bool = True,
    ensemble: bool = True,
    samples: int = 16,
    generator: torch.Generator | None = None,
) -> Calibrated:
    """Give every exit of a trained network a posterior, a temperature and its place in the ensemble.

    Args:
        network: a trained network with exits, or a plain classifier (`suffice.plain`), which then is a network
            of one stage and one exit. It is left in evaluation mode.
        train_loader: batches `(x, y)` that the network was trained on, without augmentation; read once, and
            not at all where `structure` is None. Its labels are not used.
        val_loader: labelled batches that the network was not trained on, as they will be met in use; read
            once. Prior precision and temperature are tuned on them.
        structure: form of the posterior over an exit's classifier: "kronecker", "full", "diagonal", or None for
            no posterior.
        prior: how the prior precision δ enters a Kronecker posterior: "exact" U⊗A + δI, or the paper's
            "factored" form.
        link: "sampled" averages the softmax over `samples` fixed joint samples; "meanfield" and "probit" are
            closed forms of the variances; "plugin" keeps the network's own answer (the posterior is then there
            to be asked, and δ stays 1).
        temperature: tune a temperature per exit; otherwise 1.
        ensemble: answer at exit k with the weighted average of exits up to k.
        samples: S, an even number, for the sampled link.
        generator: randomness of the samples, on the CPU; the same state gives the same bytes.

    Returns:
        A `Calibrated`, whose call gives one `Prediction` per exit.

    Raises:
        TypeError: if the network is not a module.
        ValueError: for an empty loader, labels out of range, or inputs or features that are not finite; for a
            plain classifier whose answer is not that of one linear layer.
        MemoryError: for a structure that would not fit, before it is allocated.
    """
    _check_choices(structure, prior, link, samples)
    if structure is None:
        network, val_loader = from_loader(network, val_loader)
    else:
        network, train_loader = from_loader(network, train_loader)
    exits = [CalibratedExit(temperature=1.0, bias=bias) for bias in _biases(network)]
    if structure is not None:
        posteriors = _statistics_pass(network, train_loader, structure, prior)
        pairs = zip(exits, posteriors, strict=True)
        exits = [exit_.with_posterior(posterior, link, samples, generator) for exit_, posterior in pairs]
        exits = [exit_.to(*serving_placement(network)) for exit_ in exits]
    caches, labels, costs = _tuning_pass(network, exits, val_loader)
    weights = member_weights(costs) if ensemble else None
    exits = tuning.tune(exits, caches, labels, weights, temperature)
    return Calibrated(network, exits, ensemble, costs, fingerprint(network))


def _check_choices(structure: object, prior: object, link: object, samples: int) -> None:
    for name, value, allowed in [
        ("structure", structure, (*STRUCTURES, None)),
        ("prior", prior, ("exact", "factored")),
        ("link", link, get_args(Link)),
    ]:
        if value not in allowed:
            raise ValueError(f"expected {name} to be one of {allowed}, got {value!r}")
    if prior == "factored" and structure not in ("kronecker", None):
        raise ValueError(
            f"expected prior 'exact' with structure {structure!r}, got 'factored', of a product of factors"
        )
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


def _statistics_pass(network: ExitNetwork, loader: Loader, structure: Structure, prior: Prior) -> list[Posterior]:
    """Posterior of every exit, from one pass over the training data."""
    module, biases = STRUCTURES[structure], _biases(network)
    statistics: dict[int, Any] = {}
    with inference(network):
        for batch in batches.read(loader, network):
            for k, phi, logits in _exit_pass(network, batch.inputs, batch.start):
                phi = with_bias(phi, biases[k])
                if k not in statistics:
                    check_memory(structure, phi.shape[1], logits.shape[1], phi.device)
                    statistics[k] = module.init(phi.shape[1], logits.shape[1], phi.device)
                statistics[k] = module.update(statistics[k], phi, logits)
    options = {"prior": prior} if structure == "kronecker" else {}
    return [module.Posterior.fit(sums, **options) for sums in statistics.values()]


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
                if exits[k].asks_posterior:
                    spectra[k].append(exits[k].spectrum(phi.to(dtype)))
    assert costs is not None
    caches = [tuning.Cache(torch.cat(z), torch.cat(s) if s else None) for z, s in zip(logits, spectra, strict=True)]
    return caches, torch.cat(labels), costs
