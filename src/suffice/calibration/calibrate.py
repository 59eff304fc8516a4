"""Calibrate a trained network: one statistics pass, one cached tuning pass, no gradients through the network.

The first pass sums what the posterior (and the noise of a regression) needs over the training data; the second
caches outputs and features of the validation data, on which prior precision and temperature are tuned. The network
is never run again.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from suffice import batches, cost
from suffice.attach.plain import from_loader
from suffice.batches import Loader
from suffice.calibration import likelihoods
from suffice.calibration.calibrated import Calibrated
from suffice.calibration.ensemble import Ensemble, Weights, shares_of_cost
from suffice.calibration.exits import CalibratedExit, weights_with_bias
from suffice.calibration.likelihoods import LIKELIHOODS, linear, regression
from suffice.calibration.links import Link
from suffice.calibration.posterior import STRUCTURES, Posterior, Structure, kronecker
from suffice.calibration.posterior.kronecker import Prior
from suffice.calibration.posterior.moments import check_samples
from suffice.calibration.served import serving_placement
from suffice.calibration.statistics import (
    add_examples,
    bias_constants,
    empty_statistics,
    exit_pass,
    residual_statistics,
)
from suffice.calibration.tuning import Tuning, evidence, grid, validation
from suffice.calibration.tuning.cache import Cache
from suffice.cost import Costs
from suffice.network import ExitNetwork, check_finite
from suffice.storage.fingerprint import fingerprint
from suffice.twin import inference
from suffice.utils import threads
from suffice.utils.modes import default_modes


@default_modes()
def calibrate(
    network: nn.Module,
    train_loader: Loader,
    val_loader: Loader | None,
    *,
    likelihood: likelihoods.Name = "classification",
    structure: Structure | Literal["auto"] | None = "auto",
    prior: Prior = "exact",
    link: Link = "sampled",
    temperature: bool = True,
    ensemble: Ensemble = True,
    ensemble_weights: Weights = "cost",
    tuning: Tuning = "validation",
    bias_precision: float = 1.0,
    class_precision: Tensor | None = None,
    samples: int = 16,
    costs: Costs | None = None,
    generator: torch.Generator | None = None,
) -> Calibrated:
    """Give every exit of a trained network a posterior, a temperature and its place in the ensemble.

    Args:
        network: a trained network with exits, or a plain classifier (`suffice.attach.plain`), which then is a network
            of one stage and one exit. It is only read; what is calibrated is its answers in evaluation mode.
        train_loader: batches `(x, y)` that the network was trained on, without augmentation; read once. Only
            "regression" uses its labels; others do not read it where `structure` is None and there is a
            `val_loader`.
        val_loader: labelled batches that the network was not trained on, as they will be met in use; read
            once. Prior precision and temperature are tuned on them. May be None with `tuning="evidence"`.
        likelihood: what the classifier's outputs are: "classification", a logit for each class, labels integers
            (N,); "binary", one logit, of class 1, labels 0 or 1, (N,) or (N, 1); "regression", means of C numbers,
            targets (N, C), or (N,) where C = 1; "heteroscedastic", M means and then M log-variances.
        structure: form of the posterior over an exit's classifier: "kronecker", "full", "diagonal", "lowrank"
            (as "kronecker", for tens of thousands of classes), or None for no posterior. "auto" is "kronecker", or
            "full" where that is as cheap: a binary classifier, and a heteroscedastic one of one mean. A regression's
            is exactly "kronecker".
        prior: how the prior precision δ enters a Kronecker posterior: "exact" U⊗A + δI, or the paper's
            "factored" form.
        link: "sampled" averages the softmax over `samples` fixed joint samples; "meanfield" and "probit" are
            closed forms of the variances, and the same for "binary"; "plugin" keeps the network's own answer
            (the posterior is then there to be asked, and δ stays as fitted unless tuned by evidence). Regressions
            need no link: all but "plugin" are the same.
        temperature: tune a temperature per exit; otherwise, and without a `val_loader`, 1. It divides logits, and
            multiplies the standard deviations of a regression.
        ensemble: answer at exit k with the exits up to k: the "average" of their distributions, or True; the
            normalised "product" of their probabilities; or with exit k alone, False.
        ensemble_weights: of these exits: "cost" for the paper's, their multiply-adds; "tuned" for what answers
            best on the `val_loader`, which lets an exit that is much better than those before it speak for itself.
        tuning: "validation" finds δ and T of all exits jointly, by gradient on the NLL of what would be answered;
            "evidence" finds δ by each exit's marginal likelihood, whatever the link, and then T on the `val_loader`
            if there is one; "grid" is the paper's search, exit by exit. The noise of a "regression" is always
            of greatest evidence, together with the δ to begin with.
        bias_precision: β, prior precision of the classifiers' biases relative to δ.
        class_precision: γ (C,), prior precisions of the classes' weights (or of the means') relative to δ; None
            for 1.
        samples: S, an even number, for the sampled link.
        costs: of the network, where they are known better than by counting, as for features that were computed
            before; None counts them.
        generator: randomness of the samples, on the CPU; the same state gives the same bytes.

    Returns:
        A `Calibrated`, whose call gives one `Prediction` per exit, or one `Regression`.

    Raises:
        TypeError: if the network is not a module, or a loader iterates no batches.
        ValueError: for an empty loader, labels that the likelihood cannot have, or inputs or features that are
            not finite; for a plain classifier whose answer is not that of one linear layer; for outputs too few or
            too many for the likelihood; for precisions that are not above 0; for stages or exits that do not take
            each example by itself (`suffice.attach.contract`).
        MemoryError: for a structure that would not fit, before it is allocated.
    """
    _check_choices(likelihood, structure, prior, link, tuning, ensemble, ensemble_weights, samples)
    tuned_weights = ensemble_weights == "tuned"
    if val_loader is None:
        _check_without_validation(tuning, tuned_weights)
    else:
        batches.check_loader(val_loader)
    if tuning == "evidence" and not temperature and not tuned_weights:
        val_loader = None
    family = LIKELIHOODS[likelihood]
    fits = structure is not None or family.learns_noise
    if not fits and val_loader is not None:
        network, val_loader = from_loader(network, val_loader)
    else:
        network, train_loader = from_loader(network, train_loader)
    family.check_outputs(network.num_classes)
    _check_precisions(bias_precision, class_precision, family.latents(network.num_classes))
    if val_loader is None and costs is None:
        first, train_loader = batches.peek(train_loader, network)
        costs = cost.count(network, first.inputs)
    biases = bias_constants(network, bias_precision)
    exits = [CalibratedExit(temperature=1.0, bias=bias, likelihood=family()) for bias in biases]
    if fits:
        exits, posteriors = _fit(network, exits, train_loader, structure, prior, class_precision)
        if structure is not None:
            pairs = zip(exits, posteriors, strict=True)
            exits = [exit_.with_posterior(posterior, link, samples, generator) for exit_, posterior in pairs]
    if tuning == "evidence" and not family.learns_noise:
        exits = evidence.tune(exits, _weights(network, exits))
    exits = [exit_.to(*serving_placement(network)) for exit_ in exits]
    if val_loader is not None:
        caches, targets, costs = _tuning_pass(network, exits, val_loader, costs)
        weights, product = shares_of_cost(costs) if ensemble else None, ensemble == "product"
        with threads.one_thread_if_small(max(_numbers(*pair) for pair in zip(exits, caches, strict=True))):
            if tuning == "grid":
                exits = grid.tune(exits, caches, targets, weights, temperature, product)
            else:
                jointly = tuning == "validation"
                exits = validation.tune(exits, caches, targets, weights, temperature, jointly, product, tuned_weights)
    assert costs is not None
    return Calibrated(network, exits, ensemble, costs, fingerprint(network))


def _numbers(exit_: CalibratedExit, cache: Cache) -> float:
    """That an operation of tuning an exit is on; infinite on a GPU."""
    examples, outputs = cache.logits.shape
    spectrum = 0 if cache.spectrum is None else cache.spectrum.numel()
    return max(examples * exit_.terms(outputs), spectrum) if cache.logits.device.type == "cpu" else math.inf


def _check_choices(
    likelihood: object,
    structure: object,
    prior: object,
    link: object,
    tuning: object,
    ensemble: object,
    ensemble_weights: object,
    samples: int,
) -> None:
    for name, value, allowed in [
        ("likelihood", likelihood, tuple(LIKELIHOODS)),
        ("structure", structure, ("auto", *STRUCTURES, None)),
        ("prior", prior, ("exact", "factored")),
        ("link", link, get_args(Link)),
        ("tuning", tuning, get_args(Tuning)),
        ("ensemble", ensemble, (True, False, "average", "product")),
        ("ensemble_weights", ensemble_weights, get_args(Weights)),
    ]:
        if value not in allowed:
            raise ValueError(f"expected {name} to be one of {allowed}, got {value!r}")
    if prior == "factored" and structure not in ("auto", "kronecker", None):
        raise ValueError(
            f"expected prior 'exact' with structure {structure!r}, got 'factored', of a product of factors"
        )
    if ensemble == "product" and likelihood not in ("classification", "binary"):
        raise ValueError(f"expected ensemble 'average' or False with likelihood {likelihood!r}, got 'product'")
    if ensemble_weights == "tuned" and (not ensemble or tuning == "grid"):
        raise ValueError(
            f"expected ensemble_weights 'cost' with {ensemble=} and {tuning=}, got 'tuned'; weights are tuned of an "
            "ensemble, by gradient"
        )
    exact = LIKELIHOODS[str(likelihood)].exact_structure
    if exact and (structure not in ("auto", exact, None) or prior != "exact"):
        raise ValueError(
            f"expected structure {exact!r} and prior 'exact' with likelihood {likelihood!r}, whose posterior they "
            f"give exactly, got {structure!r} and {prior!r}; leave them out, or pass structure=None for no posterior"
        )
    check_samples(samples)


def _check_without_validation(tuning: Tuning, tuned_weights: bool) -> None:
    if tuning != "evidence":
        raise ValueError(f"expected a val_loader for tuning={tuning!r}, got None; pass one, or tuning='evidence'")
    if tuned_weights:
        raise ValueError("expected a val_loader for ensemble_weights='tuned', got None; pass one, or 'cost'")


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


def _fit(
    network: ExitNetwork,
    exits: list[CalibratedExit],
    loader: Loader,
    structure: Structure | Literal["auto"] | None,
    prior: Prior,
    class_precision: Tensor | None,
) -> tuple[list[CalibratedExit], list[Posterior]]:
    """Exits with their noise, if that is learned, and their posteriors, from one pass over the training data."""
    likelihood = exits[0].likelihood
    if structure is None or likelihood.learns_noise:
        return _by_evidence(network, exits, loader, class_precision)
    if structure == "auto":
        structure = "kronecker" if prior == "factored" else likelihood.structure(network.num_classes)
    options = {"prior": prior} if structure == "kronecker" else {}
    empty = empty_statistics(network, structure, likelihood.latents(network.num_classes))
    sums = add_examples(network, loader, structure, exits, empty)
    fit = STRUCTURES[structure].Posterior.fit
    deltas = [likelihood.prior_precision(weights) for weights in _weights(network, exits)]
    pairs = zip(sums, deltas, strict=True)
    return exits, [fit(own, delta, class_precision=class_precision, **options) for own, delta in pairs]


def _by_evidence(
    network: ExitNetwork, exits: Sequence[CalibratedExit], loader: Loader, class_precision: Tensor | None
) -> tuple[list[CalibratedExit], list[Posterior]]:
    """Exits with the noise, and posteriors with the δ, of greatest evidence."""
    learned: list[CalibratedExit] = []
    posteriors: list[Posterior] = []
    sums = residual_statistics(network, loader, exits)
    for exit_, own, weights in zip(exits, sums, _weights(network, exits), strict=True):
        start = exit_.likelihood.prior_precision(weights)
        noise, delta = linear.maximize(own, weights, start, class_precision)
        learned.append(replace(exit_, likelihood=regression.Likelihood(noise)))
        statistics = kronecker.Statistics(own.features, torch.diag(own.count / noise), own.count)
        posteriors.append(kronecker.Posterior.fit(statistics, delta, class_precision=class_precision))
    return learned, posteriors


def _weights(network: ExitNetwork, exits: Sequence[CalibratedExit]) -> list[Tensor]:
    """W of the outputs that have a posterior, the bias, if any, as the last column, for each exit."""
    latents = exits[0].likelihood.latents(network.num_classes)
    with inference(network) as network:  # weights may be computed as they are read, in training mode otherwise
        classifiers = [network.exit(k).classifier for k in range(len(exits))]
        pairs = zip(classifiers, (exit_.bias for exit_ in exits), strict=True)
        return [weights_with_bias(classifier, bias)[:latents] for classifier, bias in pairs]


def _tuning_pass(
    network: ExitNetwork, exits: Sequence[CalibratedExit], loader: Loader, costs: Costs | None
) -> tuple[list[Cache], Tensor, Costs]:
    """Outputs and spectra of the validation set at every exit, its targets, and the costs, counted if not known."""
    logits: list[list[Tensor]] = [[] for _ in exits]
    spectra: list[list[Tensor]] = [[] for _ in exits]
    labels = []
    with inference(network) as network:
        for batch, y in likelihoods.read(loader, network, exits[0].likelihood):
            costs = costs or cost.count(network, batch.inputs)
            labels.append(y)
            for k, phi, z in exit_pass(network, batch.inputs, batch.start):
                dtype = torch.promote_types(phi.dtype, torch.float32)
                logits[k].append(z.to(dtype))
                if exits[k].uses_posterior:
                    spectrum = exits[k].spectrum(phi.to(dtype))
                    check_finite(spectrum, f"squared features at exit {k}", batch.start)
                    spectra[k].append(spectrum)
    assert costs is not None
    caches = [Cache(torch.cat(z), torch.cat(s) if s else None) for z, s in zip(logits, spectra, strict=True)]
    return caches, torch.cat(labels), costs
