"""Export a calibrated network to a bundle: a graph for each stage, by default of ONNX, which needs no PyTorch to run.

    graph k     state before stage k, running averages  →  state behind it, averages, prediction, score
    estimator   inputs  →  output, estimated variation, distance from the inputs of fitting

The loop between the graphs, in which examples leave the batch, stays outside: a graph with control flow that depends on
values is slow, and cannot be compiled.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from suffice.budget.policy import Policy
from suffice.calibration.calibrated import Calibrated
from suffice.deploy import checks
from suffice.deploy.bundle import card, manifest
from suffice.deploy.bundle.tokenizer import FILE, Tokenizer
from suffice.deploy.graphs.estimator import prepare_estimator
from suffice.deploy.graphs.graph import Graph
from suffice.deploy.graphs.inputs import Inputs
from suffice.deploy.graphs.limits import Limits
from suffice.deploy.graphs.split import join, prepare_head
from suffice.deploy.graphs.stage import StageModule, prepare_stage
from suffice.deploy.graphs.step import Step
from suffice.deploy.quantization.quantized import Quantized
from suffice.deploy.sources import Sources
from suffice.deploy.translation import formats
from suffice.deploy.translation.formats import FormatName
from suffice.deploy.translation.tracing import trace
from suffice.network import State
from suffice.twin import inference
from suffice.utils.modes import default_modes
from suffice.variation.estimator import VariationEstimator


@default_modes()
def export(
    fitted: Calibrated | VariationEstimator,
    folder: str | os.PathLike[str],
    *,
    example: State,
    policy: Policy | None = None,
    policies: Sequence[Policy] = (),
    estimator: VariationEstimator | None = None,
    format: FormatName = "onnx",
    opset: int | None = None,
    class_names: Sequence[str] | None = None,
    tokenizer: object = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> None:
    """Export a calibrated network, with its predictions and the score of a policy, to a folder with a graph per stage.

    The graphs give the predictions of `calibrated(x)`, up to rounding, for any number of examples, and for texts of any
    length. They are computed and checked before anything is written. A graph of a variation estimator gives
    `estimator.estimate(x)`, beside those of the network or alone.

    Args:
        fitted: Calibrated network, in float32 or the result of `quantize`; or an estimator of a model in float32, to
            export it alone.
        folder: Folder to write. If it is a link, the link stays and its destination is replaced.
        example: Batch of one example or more; a text of at least four tokens. Its values are not stored, but those that
            are no tensors are part of the graphs.
        policy: Policy made for this network, with a score that has a name or comes from `fit_exit_variation`; None for
            predictions at every exit. The times of its profile are not exported.
        policies: Policies of the same score that a service may use in place of `policy`: for other budgets that
            requests may name, or safer ones of `certified_policies` that it steps back to.
        estimator: Estimator of the same network, or of the model that its exits were attached to, without the delta
            rule. Its graph contains the whole model.
        format: "onnx" for ONNX graphs, which `suffice_runtime` runs; "torch" for programs of `torch.export`; "inductor"
            for packages that AOTInductor compiles for this machine, which takes long. Both of them take the
            inputs by position, return a tuple of the outputs, and run on the device of the network.
        opset: Version of the ONNX operators, 18 to 23; None for 20.
        class_names: Names of the outputs, for readers of the bundle.
        tokenizer: Fast tokenizer of transformers, or a tokenizer of the package tokenizers, by which the bundle answers
            texts; for inputs among "input_ids", "attention_mask" and "token_type_ids".
        preprocessing: Description of how inputs are made, for readers of the bundle; anything that JSON can hold.

    Raises:
        ImportError: If the extra "export" is not installed, for ONNX graphs, or torch is too old.
        RuntimeError: If there is no C++ compiler, for "inductor".
        TypeError: For arguments of other types, a compiled or scripted module, or a network that is not in float32.
        ValueError: If the format is unknown or does not fit the network or the opset, the weights have changed, the
            policy or the estimator was made for another network, the score is a function of the user, the estimator
            uses the delta rule, the network does not take the example, or a stage or the estimator cannot be traced,
            translated or compiled; the message names it and the place.
        FileExistsError: If something is there that is not a bundle, or has other files in it.
        OSError: If the folder cannot be written, or the disk is full.

    Example:
        >>> import os, tempfile, torch, suffice
        >>> network, x = suffice.models.convnet(num_classes=3, widths=(4, 8)), torch.rand(200, 1, 8, 8)
        >>> loader = [(x, torch.arange(200) % 3)]
        >>> calibrated = suffice.calibrate(network, None, loader, structure=None, temperature=False)
        >>> policy = suffice.allocate(calibrated, [x], budget=0.8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     suffice.export(calibrated, f"{folder}/bundle", policy=policy, example=x)
        ...     print(sorted(os.listdir(f"{folder}/bundle")))
        ['manifest.json', 'model_card.md', 'stage-0.onnx', 'stage-1.onnx']
    """
    chosen = formats.resolve(format, opset)
    sources = Sources.of(fitted, policy, estimator, policies)
    checks.description(preprocessing)
    words = None if tokenizer is None else Tokenizer.of(tokenizer)
    sources.check()
    quantized = sources.calibrated if isinstance(sources.calibrated, Quantized) else None
    if quantized is not None:
        quantized.check_format(chosen)
    manifest.check_replaceable(folder)
    x = sources.example_batch(example)
    checks.class_names(class_names, sources.outputs(x))
    inputs = Inputs.of(sources.model, x, sources.mask)
    if any(each.needs_coin for each in sources.all_policies):
        inputs.check_coin()
    with ExitStack() as twins:
        graphs = list(_graphs(sources, inputs, twins))
        if words is not None:
            words.check_inputs(graphs[0].before.values)
        parts = graphs if quantized is None else _heads(graphs)
        programs = list(map(trace, parts))  # before the first translation, which takes longer
        limits = list(map(Limits.of, programs, parts))
        payloads = [chosen.to_bytes(program, part) for program, part in zip(programs, parts, strict=True)]
    for k, backbone in enumerate(() if quantized is None else quantized.backbones):
        payloads[k] = join(backbone.graph, payloads[k], graphs[k])
        limits.append(backbone.limits if k == 0 else Limits({}, backbone.limits.lengths))
    entries = manifest.entries(
        sources, inputs, Limits.joined(limits), graphs, payloads, chosen, class_names, words, preprocessing
    )
    files = {} if words is None else {FILE: words.payload}
    manifest.write(folder, entries, payloads, {**files, manifest.CARD: card.text(entries).encode()})


def _heads(graphs: Sequence[Graph]) -> list[Graph]:
    """Return graphs with the head in place of each whole stage."""
    return [prepare_head(graph) if isinstance(graph.module, StageModule) else graph for graph in graphs]


def _graphs(sources: Sources, inputs: Inputs, twins: ExitStack) -> Iterator[Graph]:
    """Yield the graphs of a bundle, ready to be traced while the twins that they run are open."""
    if sources.calibrated is not None:
        twin = twins.enter_context(inference(sources.calibrated.network))
        values = inputs.probe(twin)
        for k, stage in enumerate(twin.stages):
            step = Step.of(sources.calibrated, sources.policy, k)
            ready, values = prepare_stage(stage, twin.exit(k), step, values)
            yield ready
    if sources.estimator is not None:
        model = twins.enter_context(inference(sources.estimator.model))
        yield prepare_estimator(model, sources.estimator, inputs.probe(model))
