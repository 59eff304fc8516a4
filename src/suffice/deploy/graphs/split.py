"""One stage in two parts: the backbone, which may be quantized, and the head, which stays in float32.

backbone   state before the stage  →  state behind it, features φ of its exit
head       φ, state, averages  →  averages, prediction, score
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from suffice.deploy.graphs.graph import Graph, GraphModule, Probe
from suffice.deploy.graphs.stage import StageModule, prepare, state_outputs
from suffice.deploy.graphs.step import Step
from suffice.deploy.graphs.templates import Template
from suffice.deploy.graphs.values import NEXT
from suffice.network import Exit

if TYPE_CHECKING:
    from onnx import ModelProto

PHI = f"{NEXT}phi"
"""Name of the features φ of an exit."""


class BackboneModule(GraphModule):
    """Stage and the features of its exit, from tensors to tensors.

    Args:
        stage: Stage of a twin in evaluation mode (`suffice.twin`).
        features: Features of the exit after it.
        template: Nest of the state before the stage, without its tensors.
    """

    def __init__(self, stage: nn.Module, features: nn.Module, template: Template) -> None:
        super().__init__(template)
        self.stage, self.features, self.template = stage, features, template

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return φ, then the tensors of the state behind the stage."""
        state = self.stage(self.template.fill(tensors))
        return self.note(state, {PHI: self.features(state), **state_outputs(state)})


class HeadModule(GraphModule):
    """Classifier, calibrated prediction, ensemble and score, from tensors to tensors.

    Args:
        classifier: Classifier of the exit.
        step: What is computed at the exit.
        template: Nest of the state behind the stage, without its tensors.
        running: Number of tensors of the ensemble before the stage.
    """

    def __init__(self, classifier: nn.Linear, step: Step, template: Template, running: int) -> None:
        super().__init__(template)
        self.classifier, self.step, self.template, self.running = classifier, step, template, running

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors of the exit from φ, the state behind the stage, the averages and the streak."""
        phi, *behind = tensors
        count = self.template.count
        state, streak = self.template.fill(behind[:count]), behind[count + self.running :]
        return self.note((), self.step(phi, self.classifier(phi), state, behind[count : count + self.running], streak))


def prepare_backbone(k: int, stage: nn.Module, exit: Exit, before: Probe) -> tuple[Graph, Probe]:
    """Return the backbone of stage k, ready to be traced, and the state before the next one.

    Raises:
        ValueError: If `stage.prepare_stage` raises one.
    """
    ready, after = prepare(k, BackboneModule(stage, exit.features, before.template), before)
    first, second = ({name: tensors[name] for name in tensors if f"{NEXT}{name}" != PHI} for tensors in _both(after))
    return ready, replace(after, first=first, second=second)


def prepare_head(whole: Graph) -> Graph:
    """Return the head of a whole stage, ready to be traced."""
    module = whole.module
    assert isinstance(module, StageModule)
    backbone = BackboneModule(module.stage, module.exit.features, module.template)
    state, others = zip(*(_split(tensors, module.template.count) for tensors in _both(whole.before)), strict=True)
    before = replace(whole.before, first=state[0], second=state[1])
    after, *results = backbone.run_twice(before, f"the state behind {whole.what}")
    passes = [{**found, **rest} for found, rest in zip(results, others, strict=True)]
    head = HeadModule(module.exit.classifier, module.step, after, module.running)
    return prepare(module.step.k, head, Probe(after, passes[0], passes[1], whole.before.sizes))[0]


def join(backbone: bytes, head: bytes, whole: Graph) -> bytes:
    """Return the graph of a whole stage, made of those of its backbone and its head."""
    import onnx

    first, second = onnx.load_from_string(backbone), onnx.load_from_string(head)
    second = onnx.compose.add_prefix(second, "head.", rename_inputs=False, rename_outputs=False)
    first.ir_version = second.ir_version = max(first.ir_version, second.ir_version)
    names = [value.name for value in whole.outputs]
    shared = [value.name for value in second.graph.input if value.name in _outputs(first)]
    for value in [value for value in first.graph.output if value.name not in {*names, *shared}]:
        first.graph.output.remove(value)
    pairs = [(name, name) for name in shared]
    merged = onnx.compose.merge_models(first, second, pairs, outputs=names, producer_name="suffice")
    onnx.checker.check_model(merged)
    payload: bytes = merged.SerializeToString(deterministic=True)
    return payload


def _both(probe: Probe) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return dict(probe.first), dict(probe.second)


def _split(tensors: dict[str, Tensor], count: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the first tensors, and the others."""
    named = list(tensors.items())
    return dict(named[:count]), dict(named[count:])


def _outputs(model: "ModelProto") -> set[str]:
    return {value.name for value in model.graph.output}
