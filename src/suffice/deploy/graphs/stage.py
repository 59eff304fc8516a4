"""One stage with its exit as a module from tensors to tensors, and its inputs and outputs by name."""

from torch import Tensor, nn

from suffice.deploy.graphs.graph import Graph, GraphModule, Probe
from suffice.deploy.graphs.step import Step
from suffice.deploy.graphs.templates import Template
from suffice.deploy.graphs.values import NEXT, tensors_of
from suffice.network import Exit, State


class StageModule(GraphModule):
    """Stage and exit, the calibrated prediction, the ensemble and the score, from tensors to tensors.

    Args:
        stage: Stage of a twin in evaluation mode (`suffice.twin`).
        exit: Exit after it.
        step: What is computed at the exit.
        template: Nest of the state before the stage, without its tensors.
        running: Number of tensors of the ensemble before the stage.
    """

    def __init__(self, stage: nn.Module, exit: Exit, step: Step, template: Template, running: int) -> None:
        super().__init__(template)
        self.stage, self.exit = stage, exit
        self.step, self.template, self.running = step, template, running

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors of the state behind the stage, then those of the exit."""
        count = self.template.count
        streak = tensors[count + self.running :]
        state = self.stage(self.template.fill(tensors[:count]))
        phi: Tensor = self.exit.features(state)
        outputs: Tensor = self.exit.classifier(phi)
        results = self.step(phi, outputs, state, tensors[count : count + self.running], streak)
        if self.step.last:
            return self.note((), results)
        return self.note(state, {**state_outputs(state), **results})


def state_outputs(state: State) -> dict[str, Tensor]:
    """Return the tensors of a state by the names that they have as outputs of a graph."""
    return {f"{NEXT}state.{i}": leaf for i, leaf in enumerate(tensors_of(state))}


def prepare_stage(stage: nn.Module, exit: Exit, step: Step, before: Probe) -> tuple[Graph, Probe]:
    """Run a stage on two batches, to find the types and the dynamic axes of its outputs.

    Returns:
        The graph of the stage, and the values before the next one.

    Raises:
        ValueError: If the state behind it has a tensor without a row for each example, or plain values that depend on
            the inputs.
    """
    return prepare(step.k, StageModule(stage, exit, step, before.template, before.running), before)


def prepare(k: int, module: GraphModule, before: Probe) -> tuple[Graph, Probe]:
    """Run a stage, or a part of one, on two batches, as `prepare_stage` does."""
    where = f"the state behind stage {k}"
    after, *passes = module.run_twice(before, where)
    try:
        outputs = before.values_of(*passes)
    except ValueError as error:
        raise ValueError(f"in {where}: {error}") from error
    ahead = [{name.removeprefix(NEXT): each[name] for name in each if name.startswith(NEXT)} for each in passes]
    graph = Graph(f"stage {k}", f"stage-{k}", module, before, outputs, after)
    return graph, Probe(after, ahead[0], ahead[1], before.sizes)
