"""A `torch.fx` tracer that evaluates every node while it is recorded.

The tracer runs the model on two batches of different size. With concrete values at hand, a condition on shapes takes
the branch that the examples take, and a tuple is unpacked as it is; a guard in the graph checks at each call that other
inputs lead to the same decision (`suffice.attach.cutting.guards`). Modules stay whole unless a watched module is
inside them, so the code of all others need not be traceable.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, getitem, setitem
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from suffice.attach.cutting.guards import guard, outcome, reads_values
from suffice.network import State
from suffice.utils.nest import tree_leaves, tree_map_only

SIZES = (2, 3)
"""Numbers of examples in the two batches that a model is traced with."""


@dataclass(frozen=True)
class Call:
    """One call of a watched module.

    Attributes:
        name: Name of the module.
        inputs: Arguments of the call, nests of nodes.
        output: Output of the call, a node or a nest of nodes.
        end: Last node that the call recorded.
    """

    name: str
    inputs: Any
    output: Any
    end: fx.Node


class SingleArgument(nn.Module):
    """Model with a single argument for its inputs; a mapping is passed on as keyword arguments."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: State) -> Any:
        """Return the output of the model."""
        return self.model(**inputs) if isinstance(inputs, Mapping) else self.model(inputs)


def describe(node: fx.Node) -> str:
    """Describe a node for an error message: its origin and its shape."""
    origins = {"call_module": "the output of", "get_attr": "the attribute", "placeholder": "the model's"}
    target = getattr(node.target, "__name__", str(node.target)).removeprefix("model.")
    shapes = tree_map_only(Tensor, lambda tensor: tuple(tensor.shape), node.meta["values"][0])
    return f"{origins.get(node.op, 'the result of')} {target!r} ({node.name!r}), {shapes} for {SIZES[0]} examples"


def evaluate(root: nn.Module, node: fx.Node, value: Callable[[fx.Node], Any]) -> Any:
    """Execute one node.

    Args:
        root: Module that the targets of the node refer to.
        node: Node to execute.
        value: Function from an argument of the node to its value.
    """
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


class Tracer(fx.Tracer):
    """Tracer that evaluates each node for both batches and stores the values in `node.meta["values"]`.

    Args:
        root: Module to trace.
        watched: Modules to record the calls of, by name; the modules around them are traced into.
        batches: Inputs of `SIZES` examples.

    Attributes:
        calls: Recorded calls of each watched module, by name.
        opened: Qualified names of the modules that are traced into.
    """

    def __init__(self, root: nn.Module, watched: Mapping[str, nn.Module], batches: Sequence[State]) -> None:
        super().__init__(param_shapes_constant=True)
        self.watched = {module: name for name, module in watched.items()}
        self.calls: dict[str, list[Call]] = {name: [] for name in watched}
        self.batches = batches
        paths = [name for name, module in root.named_modules() if module in self.watched]
        self.opened = {".".join(path.split(".")[:i]) for path in paths for i in range(path.count(".") + 1)}
        self.evaluating = False
        self.ambient = ambient()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module stays whole."""
        return module_qualified_name not in self.opened

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Trace the call of a module, and record it if the module is watched."""
        if self.evaluating:
            return forward(*args, **kwargs)
        output = super().call_module(m, forward, args, kwargs)
        if m in self.watched:
            name, end = self.watched[m], next(iter(reversed(self.graph.nodes)))
            self.calls[name].append(Call(name, self.create_arg([args, kwargs]), self.create_arg(output), end))
        return output

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Return an attribute of a module: its value during an evaluation, else a proxy."""
        return attr_val if self.evaluating else super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: fx.Node) -> "_Proxy":
        """Wrap a node in a proxy."""
        return _Proxy(node, self)

    def create_proxy(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> Any:
        """Record a node; a tuple, list or dict becomes one of proxies, and None stays None.

        Raises:
            TypeError: If the node runs under another gradient mode or autocast than the pass; a graph has no modes.
        """
        if not self.evaluating and ambient() != self.ambient:
            raise TypeError(f"another gradient mode or autocast around {target}, which a graph does not keep")
        proxy = super().create_proxy(kind, target, *args, **kwargs)
        return proxy if kind == "output" else self._unpack(proxy)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Return the truth value of a proxy, if it is the same for both batches."""
        return self._decided(obj, "condition") == str(True)

    def iter(self, obj: Any) -> Iterator[Any]:
        """Iterate over the entries of a proxy."""
        return iter([obj[i] for i in range(self.length(obj))])

    def length(self, obj: fx.Proxy) -> int:
        """Return the length of a proxy, if it is the same for both batches."""
        return int(self._decided(obj, "length"))

    def _unpack(self, proxy: Any) -> Any:
        first, second = self._values(proxy.node)
        if first is None and second is None:
            if proxy.node.op == "call_module" or proxy.node.target is getitem:
                self._guard(proxy, "structure", outcome(None, "structure"))
            return None
        if type(first) in (tuple, list, dict):
            if reads_values(proxy.node):
                raise TypeError(f"a list of the values of a tensor, {describe(proxy.node)}")
            self._guard(proxy, "structure", outcome(first, "structure"))
        if type(first) in (tuple, list):
            return type(first)(proxy[i] for i in range(len(first)))
        if type(first) is dict:
            return {key: proxy[key] for key in first}
        return proxy

    def _values(self, node: fx.Node) -> list[Any]:
        if "values" not in node.meta:
            self.evaluating = True
            try:
                with torch.no_grad():
                    node.meta["values"] = [self._value(node, i) for i in range(len(SIZES))]
            finally:
                self.evaluating = False
        values: list[Any] = node.meta["values"]
        return values

    def _value(self, node: fx.Node, i: int) -> Any:
        if node.op == "placeholder":
            return self.batches[i]
        return evaluate(self.root, node, lambda argument: self._values(argument)[i])

    def _decided(self, obj: fx.Proxy, kind: str) -> str:
        """Return the outcome of a decision on a proxy if it is the same for both batches, and record a guard."""
        values = self._values(obj.node)
        if any(isinstance(value, Tensor) for value in values):
            raise TypeError(f"a {kind} on the values of a tensor, {describe(obj.node)}")
        if reads_values(obj.node) or any(_has_shape_of_values(node) for node in ancestors(obj.node)):
            raise TypeError(f"a {kind} that depends on the values of a tensor, {describe(obj.node)}")
        first, second = (outcome(value, kind) for value in values)
        if first != second:
            raise TypeError(f"a {kind} that depends on the number of examples, {describe(obj.node)}")
        self._guard(obj, kind, first)
        return first

    def _guard(self, obj: fx.Proxy, kind: str, expected: str) -> None:
        """Record a check that other inputs lead to the same decision."""
        if not self.evaluating:
            self.create_proxy("call_function", guard, (obj, kind, expected), {})


class RandomNumbers(TorchFunctionMode):
    """Mode in which traced code may not draw random numbers of its own: a graph would repeat the first ones.

    Operations on the values of a pass are recorded as nodes and draw anew each time; they do not come here.
    """

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function, or refuse it if it draws random numbers."""
        name = getattr(func, "__name__", "")
        recorded = any(isinstance(leaf, fx.Proxy) for leaf in tree_leaves((args, kwargs)))
        if name in _DRAWING and not self.tracer.evaluating and not recorded:
            raise TypeError(f"random numbers of torch.{name} in the forward pass, which a graph would not draw again")
        return func(*args, **(kwargs or {}))


_SHAPED_BY_VALUES = frozenset(("argwhere", "bincount", "masked_select", "nonzero", "unique", "unique_consecutive"))
"""Names of functions and methods whose results have shapes that depend on values."""


def ancestors(node: fx.Node) -> set[fx.Node]:
    """Return a node and all nodes that it depends on."""
    visited: set[fx.Node] = set()
    pending = [node]
    while pending:
        node = pending.pop()
        if node not in visited:
            visited.add(node)
            pending.extend(node.all_input_nodes)
    return visited


def _has_shape_of_values(node: fx.Node) -> bool:
    """Return whether the shape of a node's value depends on values, as that of a selection by a mask."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name == "where":
        return len(node.args) + len(node.kwargs) == 1
    if name != "getitem":
        return name in _SHAPED_BY_VALUES
    indices = [leaf for leaf in tree_leaves(node.args[1:]) if isinstance(leaf, fx.Node)]
    values = [value for index in indices for value in index.meta.get("values", ())[:1]]
    return any(isinstance(value, Tensor) and value.dtype in (torch.bool, torch.uint8) for value in values)


_DRAWING = frozenset(
    ("bernoulli", "bernoulli_", "multinomial", "normal", "normal_", "rand", "randint", "randn", "randperm", "uniform_")
)
"""Names of the functions that draw random numbers."""


def ambient() -> tuple[Any, ...]:
    """Return the modes of PyTorch in which the code runs."""
    autocast = [torch.is_autocast_enabled(device) for device in ("cpu", "cuda")]
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), *autocast, torch.get_autocast_dtype("cpu")


class _Proxy(fx.Proxy):
    """Proxy that supports item assignment, and `len` where both batches have the same length."""

    def __len__(self) -> int:
        assert isinstance(self.tracer, Tracer)
        return self.tracer.length(self)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", setitem, (self, index, value), {})
