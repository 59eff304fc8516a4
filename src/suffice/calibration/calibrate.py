"""Calibration of a trained network: one pass over the training data, one over the validation data, no training.

The first pass sums the statistics of the posteriors (and of the noise of a regression). The second caches outputs and
features of the validation data, on which prior precisions and temperatures are tuned without running the network again.
"""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from suffice import batches, cost
from suffice.attach.determinism import check_deterministic
from suffice.attach.plain import from_loader
from suffice.batches import Loader
from suffice.calibration import likelihoods
from suffice.calibration.calibrated import Calibrated
from suffice.calibration.choices import Choices, Preset, Tuning, in_default_modes
from suffice.calibration.ensemble import Ensemble, Weights, shares_of_cost
from suffice.calibration.fitting import classifier_weights, fit_exits
from suffice.calibration.links import Link
from suffice.calibration.posterior import Structure
from suffice.calibration.posterior.kronecker import Prior
from suffice.calibration.serving.served import serving_placement
from suffice.calibration.tuning import evidence, grid, support, validation
from suffice.calibration.tuning.objective import Objective, read_validation
from suffice.calibration.tuning.plausibility import warn_if_implausible
from suffice.calibration.tuning.ranges import warn_at_edges
from suffice.cost import Costs
from suffice.network import ExitNetwork
from suffice.storage.fingerprint import fingerprint
from suffice.utils.arguments import optional_generator

_TUNE = {"validation": validation.tune, "evidence": evidence.tune, "grid": grid.tune}


@in_default_modes
def calibrate(
    network: nn.Module,
    train_loader: Loader | None,
    val_loader: Loader | None,
    *,
    likelihood: likelihoods.Name = "classification",
    preset: Preset | None = None,
    structure: Structure | Literal["auto"] | None = "auto",
    prior: Prior = "exact",
    link: Link | Literal["auto"] = "auto",
    temperature: bool = True,
    ensemble: Ensemble = True,
    ensemble_weights: Weights | Literal["auto"] = "auto",
    tuning: Tuning = "validation",
    bias_precision: float = 1.0,
    class_precision: Tensor | None = None,
    samples: int = 16,
    costs: Costs | None = None,
    generator: torch.Generator | None = None,
) -> Calibrated:
    """Fit a posterior and tune a temperature for every exit of a trained network, and combine the exits.

    Args:
        network: Trained network with exits, or a plain classifier (`suffice.attach.plain`), which becomes a network
            with one stage and one exit. It is not modified; predictions are calibrated for evaluation mode.
        train_loader: Batches `(x, y)` of the training data, without augmentation; read once. Labels are used only by
            "regression". May be None, and is not read, if `structure` is None and there is a `val_loader`, except
            for "regression".
        val_loader: Labeled batches that the network was not trained on, from the distribution seen in use; read once.
            Prior precisions and temperatures are tuned on them. May be None with `tuning="evidence"`.
        likelihood: Meaning of the classifier's outputs. "classification": one logit per class, integer labels (N,).
            "binary": one logit, of class 1, labels 0 or 1, (N,) or (N, 1). "multilabel": one logit for each of K labels
            that are present or absent, labels 0 or 1, (N, K). "regression": C means, targets (N, C), or
            (N,) where C = 1. "heteroscedastic": M means and then M log-variances, targets (N, M), or (N,).
        preset: "paper" makes the choices of Meronen et al. 2024, whole: a factored prior, the grid, 50 samples, and the
            average by cost. These arguments are then omitted; another value of one is refused.
        structure: Form of the posterior over an exit's classifier: "kronecker", "full", "blocks" (independent outputs,
            as those of "multilabel" exactly are), "diagonal", "lowrank" (like "kronecker", for tens of thousands of
            classes), or None for no posterior. "auto" is "full" where that is equally cheap, for a binary or
            multi-label classifier with one logit and a heteroscedastic one with one mean, else "kronecker". The
            posterior of a regression is exactly "kronecker".
        prior: Form of the prior precision δ in a Kronecker posterior: "exact" is U⊗A + δI, "factored" the paper's.
        link: "sampled" averages the softmax over `samples` fixed joint samples. "meanfield" and "probit" are closed
            forms of the variances, equal to each other for "binary" and "multilabel". "plugin" predicts without the
            posterior, which is still available; its δ is tuned only by evidence, and the epistemic part of every exit
            alone is 0. For regressions all links but "plugin" are equal. For classes and labels, "auto" is "sampled"
            at the exits where that lowers the NLL on the `val_loader` by more than chance
            (`suffice.calibration.tuning.support`), else "plugin". For regressions, whose variances are exact, and with
            another `tuning` it is "sampled".
        temperature: Tune a temperature per exit; otherwise, and without a `val_loader`, it is 1. It divides logits,
            and multiplies the standard deviations of a regression.
        ensemble: Prediction at exit k from the exits up to k: the "average" of their distributions, or the normalized
            "product" of their probabilities (of each label by itself). False predicts with exit k alone. True is
            "product" for classes and labels, and "average" for regressions.
        ensemble_weights: Weights of these exits: "cost" for their multiply-adds, as in the paper, or "tuned" for the
            best predictions on the `val_loader`, where an exit much better than the earlier ones can dominate. "auto"
            is "tuned" where that is possible: with a `val_loader` and a `tuning` other than "grid".
        tuning: "validation" tunes δ and T of all exits jointly, by gradient on the NLL of the predictions. "evidence"
            maximizes each exit's marginal likelihood over δ, for every link, and then tunes T on the `val_loader` if
            there is one. "grid" is the paper's search, exit by exit. The noise of a "regression" and its initial δ
            always maximize the evidence.
        bias_precision: Prior precision β of the classifiers' biases relative to δ.
        class_precision: Prior precisions γ (C,) of the classes' weights (or of the means') relative to δ (default:
            all 1).
        samples: Number of samples S of the sampled link, even.
        costs: Costs of the network if they are known, for example for precomputed features; they are used for inputs
            of any shape. None counts them, for the policies once for every shape of input.
        generator: Generator of the samples, on the CPU; the same state gives bitwise identical results.

    Returns:
        A `Calibrated`, whose call returns one `Prediction` (or `Multilabel`, or `Regression`) per exit.

    Raises:
        TypeError: If the network is not a module, a loader does not iterate batches, or an argument is of another kind.
        ValueError: If a loader is empty, labels are invalid for the likelihood, or inputs or features are not finite;
            if the output of a plain classifier is not that of a linear layer, or the number of outputs does not fit
            the likelihood; if a precision is not above 0; if the network draws random numbers in evaluation mode
            (`suffice.attach.determinism`); if stages or exits do not process examples independently
            (`suffice.attach.contract`).
        MemoryError: If the structure would not fit, before it is allocated.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import suffice
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> x = torch.randn(400, 4)
        >>> y = model(x).softmax(dim=1).multinomial(1)[:, 0]
        >>> calibrated = suffice.calibrate(model, [(x[:200], y[:200])], [(x[200:], y[200:])])
        >>> [tuple(prediction.probs.shape) for prediction in calibrated(x)]
        [(400, 3)]
    """
    choices = Choices.of(
        preset,
        likelihood=likelihood,
        structure=structure,
        prior=prior,
        link=link,
        temperature=temperature,
        ensemble=ensemble,
        ensemble_weights=ensemble_weights,
        tuning=tuning,
        bias_precision=bias_precision,
        class_precision=class_precision,
        samples=samples,
    )
    optional_generator(generator)
    if costs is not None:
        costs = _given(costs)
    exit_network, train_batches, val_batches = _read_first(network, train_loader, val_loader, choices)
    train_batches, val_batches = _check_deterministic(network, train_batches, val_batches, choices)
    choices.check_outputs(exit_network.num_classes)
    if val_batches is None and costs is None:
        costs, train_batches = _count_costs(exit_network, train_batches)
    exits = fit_exits(exit_network, train_batches, choices, generator)
    exits = [exit_.to(*serving_placement(exit_network)) for exit_ in exits]
    classifiers = classifier_weights(exit_network, exits) if choices.tuning == "evidence" else ()
    objective = Objective(classifiers=classifiers)
    if val_batches is not None:
        caches, targets, costs = read_validation(exit_network, exits, val_batches, costs)
        weights = shares_of_cost(costs) if choices.combination else None
        objective = Objective(caches, targets, weights, choices.combination == "product", classifiers)
    assert costs is not None
    tune = support.tune if choices.selects_posterior else _TUNE[choices.tuning]
    exits, values = tune(exits, objective, choices)
    if not warn_at_edges(values):
        warn_if_implausible(exits, objective, values)
    return Calibrated(exit_network, exits, choices.combination, costs, fingerprint(exit_network))


def _read_first(
    network: nn.Module, train_loader: Loader | None, val_loader: Loader | None, choices: Choices
) -> tuple[ExitNetwork, Loader, Loader | None]:
    """Convert a plain model with the first batch of the loader that is read.

    Returns:
        The network with exits, the training data (nothing if they are not used), and the validation data, or None if
        they are not used.
    """
    if val_loader is None:
        choices.check_without_validation()
    else:
        batches.check_loader(val_loader)
    val_loader = val_loader if choices.uses_validation_data else None
    if val_loader is not None and not choices.uses_training_data:
        exit_network, val_batches = from_loader(network, val_loader)
        return exit_network, (), val_batches
    if train_loader is None:
        raise TypeError(
            "expected a train_loader of batches (x, y), got None; it may be None only where nothing is fitted to it, "
            "with structure=None and a val_loader"
        )
    return *from_loader(network, train_loader), val_loader


def _check_deterministic(
    network: nn.Module, train_batches: Loader, val_batches: Loader | None, choices: Choices
) -> tuple[Loader, Loader | None]:
    """Check a network or plain model on the first batch that is read; return loaders that still yield it."""
    if val_batches is None or choices.uses_training_data:
        first, train_batches = batches.peek(train_batches, network)
    else:
        first, val_batches = batches.peek(val_batches, network)
    check_deterministic(network, first.inputs)
    return train_batches, val_batches


def _given(costs: Costs) -> Costs:
    """Return costs that the user gives, which hold for inputs of all shapes."""
    if not isinstance(costs, Costs):
        raise TypeError(f"expected costs as suffice.cost.Costs, got {costs!r}; omit them, and they are counted")
    return replace(costs, fixed=True)


def _count_costs(network: ExitNetwork, loader: Loader) -> tuple[Costs, Loader]:
    """Count the costs of a network with the first batch of a loader; return a loader that still yields it."""
    first, remaining = batches.peek(loader, network)
    return cost.count(network, first.inputs), remaining
