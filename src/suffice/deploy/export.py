"""Export a calibrated network to a bundle: an ONNX graph for each stage, which needs no PyTorch to run.

    graph k   state before stage k, running averages  →  state behind it, averages, prediction, score

The loop between the graphs, in which examples leave the batch, stays outside: a graph with control flow that depends on
values is slow, and cannot be compiled.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from suffice.budget.policy import Policy
from suffice.calibration.calibrated import Calibrated
from suffice.deploy import card, checks, manifest
from suffice.deploy.inputs import Inputs
from suffice.deploy.quantized import Quantized
from suffice.deploy.split import join, prepare_head
from suffice.deploy.stage import Stage, prepare_stage
from suffice.deploy.step import Step
from suffice.deploy.tracing import trace, translate
from suffice.network import State
from suffice.twin import inference
from suffice.utils.modes import default_modes


@default_modes()
def export(
    calibrated: Calibrated,
    folder: str | os.PathLike[str],
    *,
    example: State,
    policy: Policy | None = None,
    opset: int = 20,
    class_names: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> None:
    """Export a calibrated network, with its predictions and the score of a policy, to a folder of ONNX graphs.

    The graphs give the predictions of `calibrated(x)`, up to rounding, for any number of examples, and for texts of any
    length. They are computed and checked before anything is written.

    Args:
        calibrated: Calibrated network, in float32, or the result of `quantize`.
        folder: Folder to write. If it is a link, the link stays and its destination is replaced.
        example: Batch of one example or more; a text of at least four tokens. Its values are not stored, but those that
            are no tensors are part of the graphs.
        policy: Policy made for this network, with a score that has a name or comes from `fit_exit_variation`; None for
            predictions at every exit. The times of its profile are not exported.
        opset: Version of the ONNX operators, 18 to 23.
        class_names: Names of the outputs, for readers of the bundle.
        preprocessing: Description of how inputs are made, for readers of the bundle; anything that JSON can hold.

    Raises:
        ImportError: If the extra "export" is not installed, or torch is too old.
        TypeError: For arguments of other types, a compiled or scripted module, or a network that is not in float32.
        ValueError: If the weights have changed, the policy was made for another network or its score is a function of
            the user, the network does not take the example, or a stage cannot be traced or translated; the message
            names the stage and the place.
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
    checks.packages()
    opset = checks.choices(calibrated, policy, opset, class_names, preprocessing)
    if isinstance(calibrated, Quantized):
        calibrated.check_opset(opset)
    checks.network(calibrated.network)
    calibrated.check_weights()
    manifest.check_replaceable(folder)
    inputs = Inputs.of(calibrated.network, checks.example_batch(calibrated, example))
    if policy is not None and policy.needs_coin:
        inputs.check_coin()
    with inference(calibrated.network) as twin:
        stages = list(_stages(calibrated, policy, inputs, twin))
        if isinstance(calibrated, Quantized):
            heads = _translated(list(map(prepare_head, stages)), opset)
            graphs = list(map(join, (backbone.graph for backbone in calibrated.backbones), heads, stages))
        else:
            graphs = _translated(stages, opset)
    entries = manifest.entries(calibrated, policy, inputs, stages, graphs, opset, class_names, preprocessing)
    manifest.write(folder, entries, graphs, card.text(entries))


def _translated(stages: Sequence[Stage], opset: int) -> list[bytes]:
    """Return the graphs of stages, or of parts of them."""
    programs = list(map(trace, stages))  # before the first translation, which takes longer
    return [translate(program, stage, opset) for program, stage in zip(programs, stages, strict=True)]


def _stages(calibrated: Calibrated, policy: Policy | None, inputs: Inputs, twin: Any) -> Iterator[Stage]:
    """Yield the stages of a network, ready to be traced."""
    values = inputs.probe(twin)
    for k, stage in enumerate(twin.stages):
        ready, values = prepare_stage(stage, twin.exit(k), Step.of(calibrated, policy, k), values)
        yield ready
