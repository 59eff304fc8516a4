"""The graph of a model's forward pass, cut into stages.

The graph is traced with two batches, of two and of three examples (`suffice.attach.cutting.tracer`). Comparing their
shapes separates the values that have the examples as their first dimension, which travel in the state, from those that
do not depend on the batch, which each stage computes again.
"""

import random
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from operator import getitem
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from suffice.attach.cutting.guards import is_guard, sources
from suffice.attach.cutting.sizes import may_fail
from suffice.attach.cutting.tracer import (
    SIZES,
    Call,
    RandomNumbers,
    SingleArgument,
    Tracer,
    ambient,
    ancestors,
    describe,
    evaluate,
)
from suffice.network import State
from suffice.twin import inference
from suffice.utils.nest import tree_leaves

_CONSTANT = "_tensor_constant"
"""Prefix of the root's attributes in which `torch.fx` stores tensors that belong to no module."""


class CutError(Exception):
    """Error for a graph that cannot be cut at a place; the message completes "expected …"."""


class Trace:
    """Graph of a model's forward pass with the calls of some of its modules.

    Args:
        model: Model to trace, as a twin in evaluation mode.
        watched: Names of the modules to record the calls of; the modules around them are traced into, all others stay
            whole.
        batches: Inputs of 2 and of 3 examples.
        training: Put the modules that are traced into, and only them, into training mode.

    Attributes:
        fixes: Whether the graph holds only for inputs of the example's sizes and plain values, as its guards check.

    Raises:
        Exception: If the model or `torch.fx` raises one because the pass cannot be traced.
    """

    def __init__(
        self, model: nn.Module, watched: Sequence[str], batches: Sequence[State], training: bool = False
    ) -> None:
        self.model = model
        with inference(model) as twin:
            self.root = SingleArgument(twin)
            tracer = Tracer(self.root, {name: twin.get_submodule(name) for name in watched}, batches)
            for name in tracer.opened:
                self.root.get_submodule(name).training = training
            before = _states_elsewhere()
            with torch.enable_grad(), RandomNumbers(tracer):
                tracer.ambient = ambient()
                graph = tracer.trace(self.root)
            if _states_elsewhere() != before:
                raise TypeError("random numbers of Python or NumPy in the forward pass, which a graph would not draw")
            *self.nodes, self.output = graph.nodes
            with torch.no_grad():
                self.fixes = not training and may_fail(self.root, self.nodes)
        self.calls = tracer.calls

    def __str__(self) -> str:
        """Return the operations that the output depends on, in order; equal passes have equal strings."""
        live = ancestors(self.output)
        number = {node: i for i, node in enumerate(node for node in self.nodes if node in live)}
        arguments = [fx.node.map_arg((node.args, node.kwargs), number.__getitem__) for node in number]
        return "\n".join(f"{node.op} {node.target} {arg}" for node, arg in zip(number, arguments, strict=True))

    def stages(self, calls: Sequence[Call], taps: Sequence[fx.Node]) -> list[fx.GraphModule]:
        """Cut the pass after each call but the last, and before the last.

        The state between two stages is a dict from names of nodes to tensors.

        Args:
            calls: Calls at which the stages end, in order; the last one, the classifier, is part of no stage.
            taps: Node of each stage's state that its exit reads.

        Raises:
            CutError: If a tensor that is needed after a cut does not have the examples first, or nothing is computed
                between two cuts.
        """
        position = {node: i for i, node in enumerate(self.nodes)}
        ends = [position[call.end] for call in calls]
        for before, after, end, following in zip(calls, calls[1:], ends, ends[1:], strict=False):
            if end >= following:
                raise CutError(
                    f"distinct modules before the classifier, got {before.name!r} and {after.name!r} with nothing "
                    "between"
                )
        stage_of = {node: bisect_left(ends, i) for node, i in position.items()}
        for node in filter(is_guard, self.nodes):  # checked as early as what it reads is there
            stage_of[node] = max((stage_of[source] for source in sources(node)), default=0)
        stages: list[fx.GraphModule] = []
        inputs: list[fx.Node] = []
        for k in reversed(range(len(calls))):
            outputs = list(dict.fromkeys([taps[k], *inputs]))
            stage_nodes = [node for node in self.nodes if stage_of[node] == k and node is not calls[-1].end]
            try:
                computed, received = _required([*stage_nodes, *outputs], k, stage_of)
            except CutError as error:
                raise CutError(
                    f"all that is needed after {calls[k - 1].name!r} to be tensors with the examples first, got {error}"
                ) from error
            inputs = sorted(received, key=position.__getitem__)
            stages.append(self._module(sorted(computed, key=position.__getitem__), inputs, outputs))
        return stages[::-1]

    def value(self, node: fx.Node, source: fx.Node, value: Any) -> Any:
        """Return the value of a node for the first batch after replacing the value of an earlier node, `source`."""
        values = {source: value}
        for later in self.nodes[self.nodes.index(source) + 1 :]:
            if any(argument in values for argument in later.all_input_nodes):
                values[later] = evaluate(self.root, later, lambda n: values.get(n, n.meta["values"][0]))
        return values.get(node, node.meta["values"][0])

    def _module(
        self, nodes: Sequence[fx.Node], inputs: Sequence[fx.Node], outputs: Sequence[fx.Node]
    ) -> fx.GraphModule:
        """Build a stage from its nodes, with the nodes of its state before and after it."""
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        if not any(node.op == "placeholder" for node in nodes):
            state = graph.placeholder("state")
            copies = {node: graph.call_function(getitem, (state, node.name)) for node in inputs}
        for node in nodes:
            copies[node] = graph.node_copy(node, lambda n: copies[n])
            copies[node].meta = {}
        graph.output({node.name: copies[node] for node in outputs})
        root = SingleArgument(self.model)
        vars(root).update({name: value for name, value in vars(self.root).items() if name.startswith(_CONSTANT)})
        return fx.GraphModule(root, graph, class_name="Stage")


def _states_elsewhere() -> tuple[object, str]:
    """Return the states of the global generators of Python and NumPy."""
    return random.getstate(), str(np.random.get_state())  # noqa: NPY002


def is_batched(node: fx.Node) -> bool:
    """Return whether the value of a node is a tensor, or a nest of tensors, with the examples first."""
    for value, size in zip(node.meta["values"], SIZES, strict=True):
        leaves = tree_leaves(value)
        if not leaves or not all(isinstance(leaf, Tensor) and leaf.shape[:1] == (size,) for leaf in leaves):
            return False
    return True


def _required(nodes: Sequence[fx.Node], k: int, stage_of: Mapping[fx.Node, int]) -> tuple[set[fx.Node], set[fx.Node]]:
    """Return the nodes that stage k computes and those that it receives in its state, in order to have `nodes`."""
    computed: set[fx.Node] = set()
    received: set[fx.Node] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node in computed or node in received:
            continue
        if stage_of[node] < k and is_batched(node):
            received.add(node)
        elif stage_of[node] == k or _is_batch_free(node):
            computed.add(node)
            pending.extend(node.all_input_nodes)
        else:
            raise CutError(describe(node))
    return computed, received


def _is_batch_free(node: fx.Node) -> bool:
    """Return whether a value is the same for both batches: it holds no tensor, or depends only on parameters."""
    first, second = map(tree_leaves, node.meta["values"])
    return len(first) == len(second) and all(map(_equal, first, second))


def _equal(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor):
        return True
    return a is b or (isinstance(b, Tensor) and a.shape == b.shape and torch.equal(a, b))
