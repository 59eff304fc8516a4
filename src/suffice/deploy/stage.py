"""One stage with its exit as a module from tensors to tensors, and its inputs and outputs by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from suffice.deploy.step import Step
from suffice.deploy.values import EXAMPLES, NEXT, Template, Value, tensors_of
from suffice.network import Exit, State

Tensors = Mapping[str, Tensor]
"""Tensors by name, in order."""


class Graph(nn.Module):
    """Module from tensors to tensors, which becomes a graph or a part of one.

    Args:
        template: Nest of the state that its inputs are the tensors of.

    Attributes:
        after: Nest of the state behind the stage in the last pass, without its tensors.
        names: Names of the outputs in the last pass.
    """

    def __init__(self, template: Template) -> None:
        super().__init__()
        self.template = self.after = template
        self.names: list[str] = []
        self.training = False


class StageGraph(Graph):
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
        self.stage, self.exit, self.step, self.running = stage, exit, step, running

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors of the state behind the stage, then those of the exit."""
        count = self.template.count
        streak = tensors[count + self.running :]
        state = self.stage(self.template.fill(tensors[:count]))
        phi: Tensor = self.exit.features(state)
        outputs: Tensor = self.exit.classifier(phi)
        results = self.step(phi, outputs, state, tensors[count : count + self.running], streak)
        if not self.step.last:
            self.after = Template.of(state)
            results = {**state_outputs(state), **results}
        self.names = list(results)
        return tuple(results.values())


def state_outputs(state: State) -> dict[str, Tensor]:
    """Return the tensors of a state by the names that they have as outputs of a graph."""
    return {f"{NEXT}state.{i}": leaf for i, leaf in enumerate(tensors_of(state))}


@dataclass(frozen=True)
class Probe:
    """Inputs of a graph in two passes, which have different numbers of examples and of tokens.

    Attributes:
        template: Nest of the state, without its tensors.
        first: Tensors of the first pass: those of the state, of the ensemble and of the streak.
        second: Tensors of the second pass.
        sizes: Sizes of the named axes in both passes.
    """

    template: Template
    first: Tensors
    second: Tensors
    sizes: Mapping[str, tuple[int, int]]

    @classmethod
    def of_inputs(
        cls, names: Sequence[str], first: State, second: State, sizes: Mapping[str, tuple[int, int]]
    ) -> "Probe":
        """Return the inputs of a network."""
        by_name = [dict(zip(names, tensors_of(x), strict=True)) for x in (first, second)]
        return cls(Template.of(first), by_name[0], by_name[1], sizes)

    @property
    def values(self) -> list[Value]:
        """Names, types and shapes of the tensors."""
        return [Value.between(name, self.first[name], self.second[name], self.sizes) for name in self.first]

    @property
    def running(self) -> int:
        """Number of tensors of the ensemble."""
        return sum(name.startswith("running.") for name in self.first)


@dataclass(frozen=True)
class Stage:
    """Stage that is ready to be traced.

    Attributes:
        k: Number of the stage, counted from 0.
        module: Stage from tensors to tensors, or a part of one.
        before: Values before it.
        outputs: Names, types and shapes of its outputs.
    """

    k: int
    module: Graph
    before: Probe
    outputs: list[Value]


def prepare_stage(stage: nn.Module, exit: Exit, step: Step, before: Probe) -> tuple[Stage, Probe]:
    """Run a stage on two batches, to find the types and the dynamic axes of its outputs.

    Returns:
        The stage, and the values before the next one.

    Raises:
        ValueError: If the state behind it has a tensor without a row for each example, or plain values that depend on
            the inputs.
    """
    return prepare(step.k, StageGraph(stage, exit, step, before.template, before.running), before)


@torch.no_grad()
def prepare(k: int, module: Graph, before: Probe) -> tuple[Stage, Probe]:
    """Run a module on two batches, as `prepare_stage` does."""
    first = module(*before.first.values())
    template, names = module.after, module.names
    second = module(*before.second.values())
    where = f"the state behind stage {k}"
    template.check_same(module.after, where)
    passes = dict(zip(names, first, strict=True)), dict(zip(names, second, strict=True))
    try:
        outputs = [Value.between(name, passes[0][name], passes[1][name], before.sizes) for name in names]
    except ValueError as error:
        raise ValueError(f"in {where}: {error}") from error
    carried = [name for name in names if name.startswith(NEXT)]
    ahead = [{name.removeprefix(NEXT): each[name] for name in carried} for each in passes]
    following = Probe(template, ahead[0], ahead[1], before.sizes)
    assert all(value.shape[0] == EXAMPLES for value in outputs)
    return Stage(k, module, before, outputs), following
