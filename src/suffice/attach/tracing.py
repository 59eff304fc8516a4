"""A model's pass as a graph, traced by `torch.fx` with examples at hand, and cut into stages.

Tracing with examples knows the value of every node: a condition on shapes falls as it falls for them, a tuple is
unpacked as it is. Two batches, of two and of three examples, tell what has the examples first and travels in the
state, and what does not depend on the batch and is computed again where it is needed. Modules stay whole unless a cut
is inside them, so what goes on in the others need not be traceable.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, getitem, setitem
from typing import Any

import torch
from torch import Tensor, fx, nn

from suffice.network import State
from suffice.twin import inference
from suffice.utils.nest import tree_leaves, tree_map_only

SIZES = (2, 3)
"""Examples in the two batches that a model is traced with."""

_CONSTANT = "_tensor_constant"
"""Attributes of the root under which `torch.fx` keeps tensors that are no attributes of a module."""


@dataclass(frozen=True)
class Call:
    """One call of a watched module.

    Attributes:
        name: of the module.
        inputs: its arguments, nests of nodes.
        output: a node, or a nest of nodes.
        end: the last node when the module had run.
    """

    name: str
    inputs: Any
    output: Any
    end: fx.Node


class CutError(Exception):
    """Something stands in the way of a cut; the message describes it."""


class Whole(nn.Module):
    """A model with its inputs as one argument; a mapping of inputs becomes its keyword arguments."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: State) -> Any:
        """The model's output."""
        return self.model(**inputs) if isinstance(inputs, Mapping) else self.model(inputs)


class Trace:
    """The graph of a model's pass, with the calls of some of its modules.

    Args:
        model: traced as a twin in evaluation mode.
        watched: names of modules of it; the modules around them are opened, all others stay whole.
        batches: inputs of 2 and of 3 examples.
        training: whether the opened modules, and they alone, are put into training mode.

    Raises:
        Exception: whatever the model or `torch.fx` raises where the pass cannot be traced.
    """

    def __init__(
        self, model: nn.Module, watched: Sequence[str], batches: Sequence[State], training: bool = False
    ) -> None:
        self.model = model
        with inference(model) as twin:
            self.root = Whole(twin)
            tracer = _Tracer(self.root, {name: twin.get_submodule(name) for name in watched}, batches)
            for name in tracer.opened:
                self.root.get_submodule(name).training = training
            graph = tracer.trace(self.root)
        *self.nodes, self.output = graph.nodes
        self.calls = tracer.calls

    def __str__(self) -> str:
        """The operations that the output is made of, in their order; equal for equal passes."""
        live = made_of(self.output)
        number = {node: i for i, node in enumerate(node for node in self.nodes if node in live)}
        arguments = [fx.node.map_arg((node.args, node.kwargs), number.__getitem__) for node in number]
        return "\n".join(f"{node.op} {node.target} {arg}" for node, arg in zip(number, arguments, strict=True))

    def stages(self, calls: Sequence[Call], answers: Sequence[fx.Node]) -> list[fx.GraphModule]:
        """The pass cut after each call but the last, and before that; a state is a dict of tensors by nodes' names.

        Args:
            calls: where the stages end, in their order; the last one, of the classifier, is left to its exit.
            answers: node of each stage's state that its exit reads.

        Raises:
            CutError: if a tensor that is needed after a cut does not have the examples first, or there is nothing
                between two cuts.
        """
        position = {node: i for i, node in enumerate(self.nodes)}
        ends = [position[call.end] for call in calls]
        for before, after, end, following in zip(calls, calls[1:], ends, ends[1:], strict=False):
            if end >= following:
                raise CutError(f"something between {before.name!r} and {after.name!r}, got nothing")
        stage_of = {node: bisect_left(ends, i) for node, i in position.items()}
        stages: list[fx.GraphModule] = []
        later: list[fx.Node] = []
        for k in reversed(range(len(calls))):
            wanted = list(dict.fromkeys([answers[k], *later]))
            own = [node for node in self.nodes if stage_of[node] == k and node is not calls[-1].end]
            try:
                computed, taken = _needed([*own, *wanted], k, stage_of)
            except CutError as error:
                raise CutError(
                    f"all that is needed after {calls[k - 1].name!r} to be tensors with the examples first, got {error}"
                ) from error
            later = sorted(taken, key=position.__getitem__)
            stages.append(self._module(sorted(computed, key=position.__getitem__), later, wanted))
        return stages[::-1]

    def value(self, node: fx.Node, given: fx.Node, value: Any) -> Any:
        """Value of a node for the first batch, where that of an earlier one is given."""
        known = {given: value}
        for later in self.nodes[self.nodes.index(given) + 1 :]:
            if any(argument in known for argument in later.all_input_nodes):
                known[later] = evaluate(self.root, later, lambda n: known.get(n, n.meta["values"][0]))
        return known.get(node, node.meta["values"][0])

    def _module(self, nodes: Sequence[fx.Node], taken: Sequence[fx.Node], wanted: Sequence[fx.Node]) -> fx.GraphModule:
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        if not any(node.op == "placeholder" for node in nodes):
            state = graph.placeholder("state")
            copies = {node: graph.call_function(getitem, (state, node.name)) for node in taken}
        for node in nodes:
            copies[node] = graph.node_copy(node, lambda n: copies[n])
            copies[node].meta = {}
        graph.output({node.name: copies[node] for node in wanted})
        root = Whole(self.model)
        vars(root).update({name: value for name, value in vars(self.root).items() if name.startswith(_CONSTANT)})
        return fx.GraphModule(root, graph, class_name="Stage")


def made_of(node: fx.Node) -> set[fx.Node]:
    """A node and all that it depends on."""
    found: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(node.all_input_nodes)
    return found


def travels(node: fx.Node) -> bool:
    """Whether a node's value is a tensor, or a nest of tensors, with the examples first."""
    for value, size in zip(node.meta["values"], SIZES, strict=True):
        leaves = tree_leaves(value)
        if not leaves or not all(isinstance(leaf, Tensor) and leaf.shape[:1] == (size,) for leaf in leaves):
            return False
    return True


def describe(node: fx.Node) -> str:
    """A node as an error names it: what made it, and its shape."""
    made = {"call_module": "the output of", "get_attr": "the attribute", "placeholder": "the model's"}
    target = getattr(node.target, "__name__", str(node.target)).removeprefix("model.")
    shapes = tree_map_only(Tensor, lambda tensor: tuple(tensor.shape), node.meta["values"][0])
    return f"{made.get(node.op, 'the result of')} {target!r} ({node.name!r}), {shapes} for {SIZES[0]} examples"


def evaluate(root: nn.Module, node: fx.Node, value: Callable[[fx.Node], Any]) -> Any:
    """Run one node, the values of its arguments being `value(argument)`."""
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), value)
    match node.op:
        case "get_attr":
            return attrgetter(str(node.target))(root)
        case "call_module":
            return root.get_submodule(str(node.target))(*args, **kwargs)
        case "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)


class _Tracer(fx.Tracer):
    """Evaluates every node as it is recorded; `node.meta["values"]` holds its value for each batch."""

    def __init__(self, root: nn.Module, watched: Mapping[str, nn.Module], batches: Sequence[State]) -> None:
        super().__init__(param_shapes_constant=True)
        self.watched = {module: name for name, module in watched.items()}
        self.calls: dict[str, list[Call]] = {name: [] for name in watched}
        self.batches = batches
        paths = [name for name, module in root.named_modules() if module in self.watched]
        self.opened = {".".join(path.split(".")[:i]) for path in paths for i in range(path.count(".") + 1)}
        self.evaluating = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self.opened

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self.evaluating:
            return forward(*args, **kwargs)
        output = super().call_module(m, forward, args, kwargs)
        if m in self.watched:
            name, end = self.watched[m], next(iter(reversed(self.graph.nodes)))
            self.calls[name].append(Call(name, self.create_arg([args, kwargs]), self.create_arg(output), end))
        return output

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self.evaluating else super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: fx.Node) -> "_Proxy":
        return _Proxy(node, self)

    def create_proxy(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> Any:
        proxy = super().create_proxy(kind, target, *args, **kwargs)
        return proxy if kind == "output" else self._unpacked(proxy)

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(self._same(obj, bool, "a condition"))

    def iter(self, obj: Any) -> Iterator[Any]:
        return iter([obj[i] for i in range(self.length(obj))])

    def length(self, obj: fx.Proxy) -> int:
        return int(self._same(obj, len, "a length"))

    def _unpacked(self, proxy: Any) -> Any:
        """A proxy; for a tuple, a list or a dict one of proxies; None for None."""
        first, second = self._values(proxy.node)
        if first is None and second is None:
            return None
        if type(first) in (tuple, list):
            return type(first)(proxy[i] for i in range(len(first)))
        if type(first) is dict:
            return {key: proxy[key] for key in first}
        return proxy

    def _values(self, node: fx.Node) -> list[Any]:
        if "values" not in node.meta:
            self.evaluating = True
            try:
                node.meta["values"] = [self._value(node, i) for i in range(len(SIZES))]
            finally:
                self.evaluating = False
        values: list[Any] = node.meta["values"]
        return values

    def _value(self, node: fx.Node, i: int) -> Any:
        if node.op == "placeholder":
            return self.batches[i]
        return evaluate(self.root, node, lambda argument: self._values(argument)[i])

    def _same(self, obj: fx.Proxy, of: Callable[[Any], Any], what: str) -> Any:
        values = self._values(obj.node)
        if any(isinstance(value, Tensor) for value in values):
            raise TypeError(f"{what} on the values of a tensor, {describe(obj.node)}")
        found = [of(value) for value in values]
        if found[0] != found[1]:
            raise TypeError(f"{what} that depends on how many examples there are, {describe(obj.node)}")
        return found[0]


class _Proxy(fx.Proxy):
    """A proxy that can be written into, and whose length is known where it is the same for both batches."""

    def __len__(self) -> int:
        assert isinstance(self.tracer, _Tracer)
        return self.tracer.length(self)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", setitem, (self, index, value), {})


def _needed(nodes: Sequence[fx.Node], k: int, stage_of: Mapping[fx.Node, int]) -> tuple[set[fx.Node], set[fx.Node]]:
    """What stage k computes and what it takes from the state before, in order to have `nodes`."""
    computed: set[fx.Node] = set()
    taken: set[fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node in computed or node in taken:
            continue
        if stage_of[node] < k and travels(node):
            taken.add(node)
        elif stage_of[node] == k or _batch_free(node):
            computed.add(node)
            waiting.extend(node.all_input_nodes)
        else:
            raise CutError(describe(node))
    return computed, taken


def _batch_free(node: fx.Node) -> bool:
    """Whether a value holds no tensor, or is the same for both batches: numbers, and what parameters alone make."""
    first, second = map(tree_leaves, node.meta["values"])
    return len(first) == len(second) and all(map(_equal, first, second))


def _equal(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor):
        return True
    return a is b or (isinstance(b, Tensor) and a.shape == b.shape and torch.equal(a, b))
