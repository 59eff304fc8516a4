"""Trace of one pass back from the last linear layer: linear layers, activations and dropout in an unbroken chain.

A function mode sees the calls of a pass, in which the sites of dropout multiply by ones. Each tensor is linked to the
step that made it: a linear layer, an activation with a known slope, or a multiplication by dropout factors. Reshapes
keep the link. Any other operation breaks it, also one that writes into the tensor, so that a chain holds all that lies
between the values at its ends.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from suffice.network import State, batch_size
from suffice.utils.draws import module_names, running_module
from suffice.variation.baselines import slopes
from suffice.variation.teachers import sites
from suffice.variation.teachers.sites import Sites

_RESHAPES = frozenset(
    (torch.flatten, torch.reshape, torch.squeeze, Tensor.flatten, Tensor.reshape, Tensor.view, Tensor.squeeze)
)
_SAME = frozenset((functional.dropout, torch.dropout, Tensor.contiguous, Tensor.to, Tensor.float, Tensor.double))
"""Functions that may return their input itself, unchanged."""

_ACTIVATIONS: dict[Any, str] = {
    function: activation.function
    for activation in slopes.ACTIVATIONS.values()
    for owner in (functional, torch, Tensor)
    for name in (activation.function, f"{activation.function}_")
    if activation.function
    if (function := getattr(owner, name, None)) is not None
}


@dataclass(frozen=True)
class Step:
    """Step of a pass.

    Attributes:
        kind: "linear", "activation", "dropout", or "other" for any other operation.
        name: Name of the linear layer's module, of the activation or of the operation; "" for dropout.
        rate: Rate of dropout; 0 for other steps.
        before: Step that made the input, if it is known.
        number: Number of the dropout among `Trace.dropout`; -1 for other steps.
    """

    kind: str
    name: str = ""
    rate: float = 0.0
    before: "Step | None" = None
    number: int = -1


@dataclass(frozen=True)
class Trace:
    """Pass with dropout factors of one.

    Attributes:
        output: The model's output.
        linear: Runs of each linear layer with inputs (N, D), by the name of its module.
        dropout: Name of the module of each dropout in the order of the pass; `sites.INPUT` for that of the inputs.
        attention: Names of the modules whose attention drops.
    """

    output: Any
    linear: dict[str, list[Step]]
    dropout: list[str]
    attention: list[str]


def trace(model: nn.Module, x: State, chosen: Sites) -> Trace:
    """Run a pass with dropout factors of one.

    Args:
        model: Twin in evaluation mode.
        x: Batch of inputs.
        chosen: Sites of dropout.
    """
    mode = _Tracing(module_names(model), batch_size(x))
    with mode:
        output = sites.run(model, x, chosen, mode.rows, mode.gate, mode.attend)
    return Trace(output, mode.linear, mode.dropout, mode.attention)


class _Tracing(TorchFunctionMode):
    """Function mode that links tensors to the steps that made them.

    Args:
        names: Names of the modules by their `id`.
        rows: Number N of examples.

    Attributes:
        linear: Runs of linear layers by name.
        dropout: Names of the modules that have dropped units.
        attention: Names of the modules whose attention drops.
    """

    def __init__(self, names: Mapping[int, str], rows: int) -> None:
        super().__init__()
        self.linear: dict[str, list[Step]] = {}
        self.dropout: list[str] = []
        self.attention: list[str] = []
        self.rows = rows
        self._names = names
        # An `id` is that of one tensor while that is alive. The version is that of its values.
        self._steps: dict[int, tuple[Tensor, Step, int]] = {}
        self._factors: dict[int, tuple[Tensor, float, int]] = {}

    def gate(self, rate: float, units: Tensor) -> Tensor:
        """Return factors of one for the units of a site."""
        factors = torch.ones_like(units)
        self._factors[id(factors)] = factors, rate, len(self.dropout)
        self.dropout.append(self._running_module())
        return factors

    def attend(self, _rate: float) -> float:
        """Return a rate of zero for an attention."""
        self.attention.append(self._running_module())
        return 0.0

    def _running_module(self) -> str:
        name = running_module(self._names)
        return sites.INPUT if name is None else name

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        source = tensors[0] if tensors else None
        step = None if source is None else self._step(func, source, tensors, args, kwargs)
        result = func(*args, **kwargs)
        if source is not None:
            self._link(func, source, result, step)
        return result

    def _link(self, func: Any, source: Tensor, result: Any, step: Step | None) -> None:
        """Link the result of a call to its step, and break the links of what the call has written into."""
        writes = getattr(func, "__name__", "").removesuffix("__").endswith("_")  # not as `__get__` and `__mul__`
        if func is Tensor.__setitem__ or (writes and result is not source):
            self._forget(source)
        if not isinstance(result, Tensor) or (result is source and func in _SAME):
            return
        if func in _RESHAPES and result.shape == (self.rows, source.numel() // self.rows):
            step = self._made(source)
        elif func not in _RESHAPES:
            self._forget(result)  # which may be an input that was written into, or `out`
        if step is not None:
            self._steps[id(result)] = result, step, _version(result)

    def _forget(self, written: Tensor) -> None:
        """Break the links of all tensors in the memory of one."""
        memory = written.untyped_storage()._cdata
        linked = [(key, tensor) for key, (tensor, *_) in self._steps.items()]
        for key, tensor in linked:
            if tensor.untyped_storage()._cdata == memory:
                del self._steps[key]

    def _made(self, tensor: Tensor) -> Step | None:
        """Return the step that made a tensor, if it is known and nothing has written into the tensor since."""
        if id(tensor) not in self._steps:
            return None
        _, step, version = self._steps[id(tensor)]
        return step if version == _version(tensor) else None

    def _step(
        self, func: Any, source: Tensor, tensors: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Step | None:
        """Return the step that a call is, or None for any other call."""
        before = self._made(source)
        if func is functional.linear and source.ndim == 2 and len(source) == self.rows:
            step = Step("linear", running_module(self._names) or "", before=before)
            self.linear.setdefault(step.name, []).append(step)
            return step
        factors, rate, number = self._factors.get(id(tensors[-1]), (None, 0.0, -1))
        if factors is not None and factors.shape == source.shape:
            return Step("dropout", rate=rate, before=before, number=number)
        if func in _ACTIVATIONS and "out" not in kwargs:
            others = {name: value for name, value in kwargs.items() if value is not source}
            name = slopes.recognize(_ACTIVATIONS[func], lambda grid: func(grid, *args[1:], **others))
            if name is None:
                return Step("other", f"{_ACTIVATIONS[func]} with parameters other than the default ones")
            return Step("activation", name, before=before)
        return Step("other", getattr(func, "__name__", "another operation"))


def _version(tensor: Tensor) -> int:
    """Return the number of writes into a tensor; 0 if they are not counted."""
    return 0 if tensor.is_inference() else tensor._version
