"""Multiply-adds of a pass, counted operation by operation in the thread that runs it.

The formulas are those of PyTorch's `FlopCounterMode`. That class itself is not used: it registers hooks on every
module of the process, and it does not count the fused CPU kernels of recurrent layers and of attention, which have
formulas here. A `TorchFunctionMode` keeps transformer layers off their fast path, which would hide their operations.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

T = TypeVar("T")


def count_macs(function: Callable[..., T], *args: Any) -> tuple[T, int]:
    """Run a function and count its multiply-adds in convolutions and matrix products.

    Returns:
        The result of the function and the number of multiply-adds.
    """
    counter = _Counter()
    with _SlowPath(), counter:
        result = function(*args)
    return result, counter.operations // 2


class _SlowPath(TorchFunctionMode):
    """Pass every call through unchanged; layers take no fast path while such a mode is active."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return func(*args, **(kwargs or {}))


class _Counter(TorchDispatchMode):
    """Add up floating-point operations, two for each multiply-add."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name, packet = func._schema.name, func.overloadpacket
        if name in _FUSED:
            self.operations += _FUSED[name](*args, **kwargs)
        elif packet in flop_registry:
            self.operations += flop_registry[packet](*args, **kwargs, out_val=result)
        return result


def _attention(query: Any, key: Any, value: Any, *_args: Any, **_kwargs: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _recurrent(inputs: Any, *weights: Any) -> int:
    """Return 2 × rows × weights: every step of every sequence is multiplied by each matrix of a layer once."""
    rows = math.prod(inputs.shape[:-1])
    return int(2 * rows * sum(weight.numel() for weight in weights if weight is not None and weight.ndim == 2))


_FUSED: dict[str, Callable[..., int]] = {
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten::_scaled_dot_product_fused_attention_overrideable": _attention,
    "aten::mkldnn_rnn_layer": lambda inputs, *args, **_: _recurrent(inputs, *args[:2]),
    "aten::_cudnn_rnn": lambda inputs, weight, *_args, **_kwargs: _recurrent(inputs, *weight),
}
"""Operation counts of fused kernels by name, as some versions of torch lack some of them."""
