"""Quantize a calibrated network to 8 bits, and fit its temperatures again.

Rounding changes the features, most of all their size and noise, so that predictions are no longer calibrated. Values
that are tuned on validation data are few, and are fitted again in seconds.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from suffice import batches
from suffice.batches import Loader
from suffice.budget.walk import check_calibrated
from suffice.calibration import likelihoods
from suffice.calibration.calibrated import Calibrated
from suffice.calibration.choices import Choices
from suffice.calibration.tuning import validation
from suffice.calibration.tuning.objective import Objective, cache
from suffice.calibration.tuning.ranges import TunedValue, warn_at_edges
from suffice.deploy import checks
from suffice.deploy.graphs.graph import Graph
from suffice.deploy.graphs.inputs import Inputs
from suffice.deploy.graphs.limits import Limits
from suffice.deploy.graphs.split import prepare_backbone
from suffice.deploy.quantization import int8
from suffice.deploy.quantization.quantized import Backbone, Quantized
from suffice.deploy.translation.tracing import trace, translate
from suffice.network import State, batch_size
from suffice.twin import inference
from suffice.utils import arguments
from suffice.utils.modes import default_modes

_ANY = (0.0, math.inf)
"""Range of values where a search starts."""

_FAR = 0.1
"""Mean distance of predictions in 8 bits from those in float32 above which there is a warning."""


@default_modes()
def quantize(
    calibrated: Calibrated,
    loader: Loader,
    *,
    refit: Loader | None = None,
    refit_posterior: bool = False,
    opset: int = 20,
) -> Quantized:
    """Quantize the stages and features of a calibrated network, so that they compute in 8-bit integers.

    The classifiers, and everything from there to the prediction and the score, stay in float32. The result is used
    like the network in float32, on the CPU: `suffice.allocate`, `suffice.control_risk` and `suffice.conformalize` make
    policies for it, and `suffice.export` exports it. A policy of the network in float32 is for another network.

    Args:
        calibrated: Calibrated network, in float32.
        loader: Batches like those in use, by which the scales of activations are chosen; labels are not needed. A few
            hundred examples are enough. Read once, and kept in memory. All have the shape of the first but for the
            number of examples, and of tokens; a text has at least four.
        refit: Labeled batches, such as the `val_loader` of `calibrate`, on which the temperatures are fitted to the
            quantized network; read once. None keeps those of the network in float32.
        refit_posterior: Fit prior precisions on `refit` too, at the exits whose predictions use their posterior.
        opset: Version of the ONNX operators, 18 to 23; the same as for `export`.

    Raises:
        ImportError: If the extra "export" is not installed, or torch is too old.
        TypeError: For arguments of other types, a network that is quantized, compiled or scripted, or not in float32.
        ValueError: If a loader is empty, its inputs differ in shape or are not finite, or its labels are invalid; if
            the weights have changed; if a stage cannot be exported (`suffice.export`), or has nothing to quantize.

    Warns:
        UserWarning: If predictions are far from those in float32, a stage stays in float32, or a fitted value ends at
            the edge of its range.

    Example:
        >>> import torch, suffice
        >>> network, x = suffice.models.convnet(num_classes=3, widths=(4, 8)), torch.rand(200, 1, 8, 8)
        >>> loader = [(x, torch.arange(200) % 3)]
        >>> calibrated = suffice.calibrate(network, None, loader, structure=None)
        >>> quantized = suffice.quantize(calibrated, loader, refit=loader)
        >>> policy = suffice.allocate(quantized, loader, budget=0.8)
        >>> bool((quantized(x)[-1].probs - calibrated(x)[-1].probs).abs().max() < 0.05)
        True
    """
    checks.packages(*checks.ONNX, "onnxruntime")
    check_calibrated(calibrated)
    opset = checks.operators(opset)
    if isinstance(calibrated, Quantized):
        raise TypeError("expected a network in float32, got one that is quantized; pass the calibrated network")
    _check_refit(calibrated, refit, refit_posterior)
    checks.network(calibrated.network)
    calibrated.check_weights()
    states = [batch.inputs for batch in batches.read(loader, calibrated.network)]
    backbones = _backbones(calibrated, states, opset)
    fitted = {"refit": refit is not None, "refit_posterior": bool(refit_posterior)}
    entries = {**int8.SETTINGS, "opset": opset, "examples": sum(map(batch_size, states)), **fitted}
    quantized = Quantized(calibrated, calibrated.exits, backbones, entries)
    _warn_if_far(calibrated, quantized, states)
    if refit is None:
        return quantized
    quantized, values = _refitted(quantized, refit, refit_posterior)
    warn_at_edges(values)
    return quantized


def _check_refit(calibrated: Calibrated, refit: object, posterior: bool) -> None:
    """Raise an error unless there are data to fit the values on that are to be fitted."""
    if refit is not None:
        batches.check_loader(refit)
    if not arguments.flag("refit_posterior", posterior):
        return
    if refit is None:
        raise ValueError("expected labeled batches as refit=… for refit_posterior=True, got none; pass both or neither")
    if not any(exit_.uses_posterior for exit_ in calibrated.exits):
        raise ValueError(
            "expected an exit whose predictions use its posterior for refit_posterior=True, got none; omit it"
        )


def _warn_if_far(calibrated: Calibrated, quantized: Quantized, states: Sequence[State]) -> None:
    """Warn if predictions in 8 bits are not close to those in float32 on the examples by which scales were chosen."""
    sums, count = [0.0] * len(calibrated.exits), 0
    for x in states:
        for k, pair in enumerate(zip(calibrated(x), quantized(x), strict=True)):
            sums[k] += float(_distances(*pair).sum())
        count += batch_size(x)
    distance, k = max((total / count, k) for k, total in enumerate(sums))
    if distance > _FAR:
        warnings.warn(
            f"expected predictions in 8 bits close to those in float32, got a mean distance of {distance:.2f} at exit "
            f"{k} on the examples by which scales were chosen (0 is equal, 1 has nothing in common); some activations "
            "may be much larger than others: export the network in float32",
            stacklevel=4,
        )


def _distances(exact: Any, rounded: Any) -> Tensor:
    """Return the distance (N,) of predictions: total variation of probabilities, or of means in standard deviations."""
    if exact.kind == "regression":
        distances: Tensor = ((exact.mean - rounded.mean).abs() / exact.std).mean(dim=1).clamp(max=1)
    else:
        differences = (exact.probs - rounded.probs).abs()
        distances = differences.sum(dim=1) / 2 if exact.kind == "classification" else differences.mean(dim=1)
    return distances


def _backbones(calibrated: Calibrated, examples: Sequence[State], opset: int) -> list[Backbone]:
    """Return the quantized stages.

    Each stage is quantized for the states behind the quantized stages before it.
    """
    states = list(examples)
    originals = _originals(calibrated, states, opset)
    backbones: list[Backbone] = []
    for k, original in enumerate(originals):
        feeds = [original.feed(state) for state in states]
        backbones.append(replace(original, graph=int8.quantize_graph(original.graph, feeds, k)))
        if k < len(originals) - 1:
            states = [backbones[k](state)[0] for state in states]
    return backbones


def _originals(calibrated: Calibrated, examples: Sequence[State], opset: int) -> list[Backbone]:
    """Return the stages of a network in float32, for inputs like those in the first batch, which all have to be."""
    inputs, stages = Inputs.of(calibrated.network, examples[0]), list[Graph]()
    with inference(calibrated.network) as twin:
        before = inputs.probe(twin)
        for k, module in enumerate(twin.stages):
            stage, before = prepare_backbone(k, module, twin.exit(k), before)
            stages.append(stage)
        first = Backbone.of(stages[0], b"", Limits({}))
        for x in examples:  # before what takes long
            first.feed(x)
        programs = list(map(trace, stages))
        limits = list(map(Limits.of, programs, stages))
        graphs = [translate(program, stage, opset) for program, stage in zip(programs, stages, strict=True)]
    return list(map(Backbone.of, stages, graphs, limits))


def _refitted(quantized: Quantized, loader: Loader, posterior: bool) -> tuple[Quantized, list[TunedValue]]:
    """Return a network with the temperatures, and if chosen the prior precisions, of least NLL on labeled batches.

    The search starts at those that it has, and minimizes the objective of `suffice.calibration.tuning.validation`.
    """
    exits = quantized.exits
    labeled = likelihoods.read(loader, quantized.network, quantized.likelihood)
    with torch.no_grad():
        caches, targets = cache(exits, labeled, lambda inputs, _: quantized.features(inputs))
    weights = quantized.weights if quantized.ensemble else None
    objective = Objective(caches, targets, weights, quantized.ensemble == "product")
    start = []
    for k, exit_ in enumerate(exits):
        start.append(TunedValue(k, "temperature", float(exit_.temperature), _ANY))
        if exit_.prior_precision is not None:
            start.append(TunedValue(k, "prior precision", exit_.prior_precision, _ANY))
    choices = Choices(ensemble_weights="cost", tuning="validation" if posterior else "evidence")
    tuned, values = validation.tune(exits, objective, choices, start)
    return quantized.with_exits(tuned), values
