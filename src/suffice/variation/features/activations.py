"""Activation layers of a model: modules, and calls of functions such as `F.relu(x)`, `x.tanh()` or `torch.sigmoid(x)`.

    "encoder.act"          the module of that name
    "encoder:relu"         the first call of relu in the forward of the module "encoder" itself, not of its submodules
    "encoder:relu:2"       the second one in a pass; ":relu" is in the forward of the model itself

A module is an activation if it is one of torch's (`ACTIVATIONS`), or if an activation function is called in it and it
has no submodules and no matrix of weights, and returns a tensor of its input's shape: those that libraries and users
write, such as GELU by a formula, are recognized by what they do.

Calls are seen by a function mode of the thread that runs the pass. Nothing is traced and nothing stays on the model, so
any control flow works. Calls on tensors without values are left out: a stage that runs a model's forward again repeats
those of earlier stages. Fused kernels of torch step aside for the mode, as they do for hooks: a
`nn.TransformerEncoderLayer` runs its unfused path, as with gradients enabled.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules import activation
from torch.overrides import TorchFunctionMode

from suffice.attach.cutting.blank import Blank
from suffice.network import State, batch_size, call, select
from suffice.twin import Twin, is_twin
from suffice.utils.draws import module_names, running_module

_NOT_STRENGTHS = {"MultiheadAttention", "Softmin", "Softmax", "Softmax2d", "LogSoftmax"}
ACTIVATIONS = tuple(getattr(activation, name) for name in activation.__all__ if name not in _NOT_STRENGTHS)
"""Classes of torch whose modules are activations."""

_FUNCTION_NAMES = (
    *("relu", "relu6", "rrelu", "prelu", "leaky_relu", "elu", "selu", "celu", "gelu", "glu", "silu", "mish", "erf"),
    *("hardtanh", "hardswish", "hardsigmoid", "hardshrink", "softshrink", "tanhshrink", "threshold"),
    *("tanh", "sigmoid", "logsigmoid", "softplus", "softsign"),
)
_FUNCTIONS: dict[Any, str] = {
    function: name
    for name in _FUNCTION_NAMES
    for owner in (functional, torch, torch.special, Tensor)
    for variant in (name, f"{name}_")
    if (function := getattr(owner, variant, None)) is not None
} | {torch.special.expit: "sigmoid"}
"""Names of the activation functions of torch, in place or not."""

_CALL = re.compile(rf"(?P<module>.*):(?:{'|'.join(_FUNCTION_NAMES)})(?::(?:[2-9]|[1-9]\d+))?", re.DOTALL)


def caller_of(name: str) -> str | None:
    """Return the name of the module in whose forward a named call is made, or None for a name of another form."""
    match = _CALL.fullmatch(name)
    return None if match is None else match["module"]


class ActivationCalls(TorchFunctionMode):
    """Function mode that records the outputs of activation functions in one pass.

    Args:
        names: Names of all modules of the model, from `module_names`.
        record: Function that is called with the name of each call and its output.
    """

    def __init__(self, names: Mapping[int, str], record: Callable[[str, Tensor], None]) -> None:
        super().__init__()
        self._names, self._record, self._counts = names, record, Counter[str]()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        function = _FUNCTIONS.get(func)
        if function is not None and isinstance(result, Tensor) and not isinstance(result, Blank):
            name = f"{running_module(self._names) or ''}:{function}"
            self._counts[name] += 1
            self._record(name if self._counts[name] == 1 else f"{name}:{self._counts[name]}", result)
        return result


@contextmanager
def recorded_calls(model: nn.Module, chosen: Sequence[str], record: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call `record(name, output)` for the chosen calls of activation functions in a pass of the body.

    Args:
        model: Twin that runs.
        chosen: Names of calls; if there are none, nothing is observed.
        record: Function of a name and an output.

    Raises:
        RuntimeError: If a chosen call was not made by the end of the body.
    """
    if not chosen:
        yield
        return
    missing = set(chosen)

    def record_chosen(name: str, output: Tensor) -> None:
        if name in chosen:
            missing.discard(name)
            record(name, output)

    with ActivationCalls(module_names(model), record_chosen):
        yield
    if missing:
        raise RuntimeError(
            f"expected every chosen activation function to be called in a pass, but {sorted(missing)} were not; leave "
            "out calls that only some inputs lead to"
        )


def find(model: nn.Module, x: State) -> list[str]:
    """Return the names of a model's activation layers whose output has the examples first, in the order of a pass.

    Args:
        model: Twin in evaluation mode; twins of it run on two and on three examples. In a model with compiled or
            scripted parts only modules outside those parts are found.
        x: Batch of examples, which are repeated if there are fewer.
    """
    found = [_observe(model, select(x, torch.arange(rows) % batch_size(x)), rows) for rows in (2, 3)]
    return [name for name in found[0] if all(name in seen and seen[name] for seen in found)]


@dataclass
class _Observed:
    """Observation of the modules and calls of one pass.

    Attributes:
        rows: Number of examples.
        layers: Whether all outputs have the examples first, by the name of a module or a call, in order.
        preserving: Names of modules that returned a tensor of their input's shape.
    """

    rows: int
    layers: dict[str, bool] = field(default_factory=dict)
    preserving: set[str] = field(default_factory=set)

    def add(self, name: str, output: Any) -> None:
        """Add an output of a module or a call."""
        fits = isinstance(output, Tensor) and output.is_floating_point() and output.ndim > 1
        self.layers[name] = self.layers.get(name, True) and fits and len(output) == self.rows


def _observe(model: nn.Module, x: State, rows: int) -> dict[str, bool]:
    """Return whether the examples are first in all outputs of each activation layer that runs, by name, in order."""
    with torch.no_grad():
        twin = Twin(model)
        observed, modules = _Observed(rows), dict(twin.model.named_modules())
        leaves = {name: module for name, module in modules.items() if name and is_twin(module) and _may_be_one(module)}
        for name, leaf in leaves.items():
            leaf.register_forward_hook(_observer(name, observed))
        with twin.running():
            if all(map(is_twin, modules.values())):
                with ActivationCalls(module_names(twin.model), observed.add):
                    call(twin.model, x)
            else:
                call(twin.model, x)
    callers = {caller for name in observed.layers if name not in modules and (caller := caller_of(name)) is not None}
    activations = {name for name, leaf in leaves.items() if _is_activation(name, leaf, callers & observed.preserving)}
    return {
        name: fits
        for name, fits in observed.layers.items()
        if (name in activations if name in modules else caller_of(name) not in activations)
    }


def _observer(name: str, observed: _Observed) -> Callable[[nn.Module, Any, Any], None]:
    def observe(_module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        observed.add(name, output)
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor) and args[0].shape == output.shape:
            observed.preserving.add(name)

    return observe


def _may_be_one(module: nn.Module) -> bool:
    return isinstance(module, ACTIVATIONS) or next(module.children(), None) is None


def _is_activation(name: str, leaf: nn.Module, callers: set[str]) -> bool:
    """Return whether a module without submodules is an activation; `callers` call such a function and keep shapes."""
    has_matrix = any(parameter.ndim > 1 for parameter in leaf.parameters())
    return isinstance(leaf, ACTIVATIONS) or (name in callers and not has_matrix)
