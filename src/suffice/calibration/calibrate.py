"""Calibrate a trained network: one statistics pass, one cached tuning pass, no gradients through the network.

The first pass sums what the posterior needs over the training data; the second caches logits and features of
the validation data, on which prior precision and temperature are tuned. The network is never run again.
"""

import math
from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from suffice import batches, cost
from suffice.batches import Loader
from suffice.calibration.calibrated import Calibrated, member_weights, serving_placement
from suffice.calibration.ensemble import Ensemble
from suffice.calibration.exits import CalibratedExit, Link, weights_with_bias
from suffice.calibration.moments import check_samples
from suffice.calibration.posterior import STRUCTURES, Posterior, Structure
from suffice.calibration.posterior.kronecker import Prior
from suffice.calibration.statistics import bias_constants, exit_pass, no_examples, with_examples
from suffice.calibration.tuning import Tuning, evidence, grid, validation
from suffice.calibration.tuning.cache import Cache
from suffice.cost import Costs
from suffice.network import ExitNetwork, fingerprint, inference
from suffice.plain import from_loader


def calibrate(
    network: nn.Module,
    train_loader: Loader,
    val_loader: Loader | None,
    *,
    structure: Structure | None = "kronecker",
    prior: Prior = "exact",
    link: Link = "sampled",
    temperature: bool = True,
    ensemble: Ensemble = True,
    tuning: Tuning = "validation",
    bias_precision: float = 1.0,
    class_precision: Tensor | None = None,
    samples: int = 16,
    generator: torch.Generator | None = None,
) -> Calibrated:
    """Give every exit of a trained network a posterior, a temperature and its place in the ensemble.

    Args:
        network: a trained network with exits, or a plain classifier (`suffice.plain`), which then is a network
            of one stage and one exit. It is left in evaluation mode.
        train_loader: batches `(x, y)` that the network was trained on, without augmentation; read once, and
            not at all where `structure` is None and there is a `val_loader`. Its labels are not used.
        val_loader: labelled batches that the network was not trained on, as they will be met in use; read
            once. Prior precision and temperature are tuned on them. May be None with `tuning="evidence"`.
        structure: form of the posterior over an exit's classifier: "kronecker", "full", "diagonal", or None for
            no posterior.
        prior: how the prior precision δ enters a Kronecker posterior: "exact" U⊗A + δI, or the paper's
            "factored" form.
        link: "sampled" averages the softmax over `samples` fixed joint samples; "meanfield" and "probit" are
            closed forms of the variances; "plugin" keeps the network's own answer (the posterior is then there
            to be asked, and δ stays 1 unless tuned by evidence).
        temperature: tune a temperature per exit; otherwise, and without a `val_loader`, 1.
        ensemble: answer at exit k with the exits up to k, weighted by multiply-adds: the "average" of their
            probabilities, or True; their normalised "product"; or with exit k alone, False.
        tuning: "validation" finds δ and T of all exits jointly, by gradient on the NLL of what would be answered;
            "evidence" finds δ by each exit's marginal likelihood, whatever the link, and then T on the `val_loader`
            if there is one; "grid" is the paper's search, exit by exit.
        bias_precision: β, prior precision of the classifiers' biases relative to δ.
        class_precision: γ (C,), prior precisions of the classes' weights relative to δ; None for 1.
        samples: S, an even number, for the sampled link.
        generator: randomness of the samples, on the CPU; the same state gives the same bytes.

    Returns:
        A `Calibrated`, whose call gives one `Prediction` per exit.

    Raises:
        TypeError: if the network is not a module.
        ValueError: for an empty loader, labels out of range, or inputs or features that are not finite; for a
            plain classifier whose answer is not that of one linear layer; for precisions that are not above 0; for
            stages or exits that do not take each example by itself (`suffice.contract`).
        MemoryError: for a structure that would not fit, before it is allocated.
    """
    _check_choices(structure, prior, link, tuning, ensemble, samples)
    if val_loader is None and tuning != "evidence":
        raise ValueError(f"expected a val_loader for tuning={tuning!r}, got None; pass one, or tuning='evidence'")
    if tuning == "evidence" and not temperature:
        val_loader = None
    if structure is None and val_loader is not None:
        network, val_loader = from_loader(network, val_loader)
    else:
        network, train_loader = from_loader(network, train_loader)
    _check_precisions(bias_precision, class_precision, network.num_classes)
    if val_loader is None:
        first, train_loader = batches.peek(train_loader, network)
        costs = cost.count(network, first.inputs)
    biases = bias_constants(network, bias_precision)
    exits = [CalibratedExit(temperature=1.0, bias=bias) for bias in biases]
    if structure is not None:
        posteriors = _posteriors(network, train_loader, structure, biases, prior, class_precision)
        pairs = zip(exits, posteriors, strict=True)
        exits = [exit_.with_posterior(posterior, link, samples, generator) for exit_, posterior in pairs]
    if tuning == "evidence":
        exits = evidence.tune(exits, [weights_with_bias(network.exit(k).classifier, b) for k, b in enumerate(biases)])
    exits = [exit_.to(*serving_placement(network)) for exit_ in exits]
    if val_loader is not None:
        caches, labels, costs = _tuning_pass(network, exits, val_loader)
        weights, product = member_weights(costs) if ensemble else None, ensemble == "product"
        if tuning == "grid":
            exits = grid.tune(exits, caches, labels, weights, temperature, product)
        else:
            jointly = tuning == "validation"
            exits = validation.tune(exits, caches, labels, weights, temperature, jointly, product)
    return Calibrated(network, exits, ensemble, costs, fingerprint(network))


def _check_choices(
    structure: object, prior: object, link: object, tuning: object, ensemble: object, samples: int
) -> None:
    for name, value, allowed in [
        ("structure", structure, (*STRUCTURES, None)),
        ("prior", prior, ("exact", "factored")),
        ("link", link, get_args(Link)),
        ("tuning", tuning, get_args(Tuning)),
        ("ensemble", ensemble, (True, False, "average", "product")),
    ]:
        if value not in allowed:
            raise ValueError(f"expected {name} to be one of {allowed}, got {value!r}")
    if prior == "factored" and structure not in ("kronecker", None):
        raise ValueError(
            f"expected prior 'exact' with structure {structure!r}, got 'factored', of a product of factors"
        )
    check_samples(samples)


def _check_precisions(bias_precision: float, class_precision: Tensor | None, classes: int) -> None:
    if not 0 < bias_precision < math.inf:
        raise ValueError(f"expected a bias_precision above 0, relative to that of the weights, got {bias_precision}")
    if class_precision is None:
        return
    if class_precision.shape != (classes,):
        raise ValueError(
            f"expected class_precision of shape ({classes},), one for each class, got {tuple(class_precision.shape)}"
        )
    bad = ~(class_precision.isfinite() & (class_precision > 0))
    if bad.any():
        first = int(bad.nonzero()[0])
        raise ValueError(f"expected a class_precision above 0, got {float(class_precision[first])} for class {first}")


def _posteriors(
    network: ExitNetwork,
    loader: Loader,
    structure: Structure,
    biases: Sequence[float | None],
    prior: Prior,
    class_precision: Tensor | None,
) -> list[Posterior]:
    """Posterior of every exit at δ = 1, from one pass over the training data."""
    options = {"prior": prior} if structure == "kronecker" else {}
    sums = with_examples(network, loader, structure, biases, no_examples(network, structure))
    fit = STRUCTURES[structure].Posterior.fit
    return [fit(own, class_precision=class_precision, **options) for own in sums]


def _tuning_pass(
    network: ExitNetwork, exits: Sequence[CalibratedExit], loader: Loader
) -> tuple[list[Cache], Tensor, Costs]:
    """Logits and spectra of the validation set at every exit, its labels, and the network's costs."""
    logits: list[list[Tensor]] = [[] for _ in exits]
    spectra: list[list[Tensor]] = [[] for _ in exits]
    labels, costs = [], None
    with inference(network):
        for batch, y in batches.read_labelled(loader, network, network.num_classes):
            costs = costs or cost.count(network, batch.inputs)
            labels.append(y)
            for k, phi, z in exit_pass(network, batch.inputs, batch.start):
                dtype = torch.promote_types(phi.dtype, torch.float32)
                logits[k].append(z.to(dtype))
                if exits[k].asks_posterior:
                    spectra[k].append(exits[k].spectrum(phi.to(dtype)))
    assert costs is not None
    caches = [Cache(torch.cat(z), torch.cat(s) if s else None) for z, s in zip(logits, spectra, strict=True)]
    return caches, torch.cat(labels), costs
