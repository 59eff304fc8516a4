"""Multiply-adds of a pass, counted operation by operation in the thread that runs it.

The formulas are those of PyTorch's `FlopCounterMode`, and those below for operations that it does not count. That class
itself is not used: it registers hooks on every module of the process. A `TorchFunctionMode` keeps transformer layers
off their fast path, which would hide their operations, and counts inner products that torch computes element by
element. What is known to multiply and has no formula is named in a warning. Element-wise operations, normalization,
pooling and interpolation are not counted.
"""

import math
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

T = TypeVar("T")


def count_macs(function: Callable[..., T], *args: Any) -> tuple[T, int]:
    """Run a function and count its multiply-adds in convolutions, matrix products and distances.

    Products with a sparse matrix are counted for its stored elements. A warning names operations that multiply and
    are not counted.

    Returns:
        The result of the function and the number of multiply-adds.
    """
    operations, composed = _Operations(), _ComposedProducts()
    with composed, operations:
        result = function(*args)
    if operations.uncounted:
        warnings.warn(
            f"the multiply-adds of {', '.join(sorted(operations.uncounted))} are not counted, so that costs and "
            "budgets leave them out; pass costs=suffice.cost.Costs(…) to suffice.calibrate to state them",
            stacklevel=2,
        )
    return result, operations.macs + composed.macs


class _ComposedProducts(TorchFunctionMode):
    """Count products that torch computes element by element; layers take no fast path while such a mode is active."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in _COMPOSED:
            self.macs += _inner_products(func, result, *args, **kwargs)
        return result


class _Operations(TorchDispatchMode):
    """Count operations as torch runs them, and collect the names of those that multiply and have no formula."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs, self.uncounted = 0, set[str]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func._schema.name if isinstance(func, torch._ops.OpOverload) else func.name()
        name = name.removesuffix("_")  # an operation in place has the formula of the other
        if name in _FORMULAS:
            self.macs += _FORMULAS[name](result, *args, **kwargs)
        elif name in _FLOPS:
            self.macs += _FLOPS[name](*args, **kwargs, out_val=result) // 2
        elif _multiplies(name):
            self.uncounted.add(name.removeprefix("aten::"))
        return result


_COMPOSED = {torch.linalg.vecdot: -1, torch.cosine_similarity: 1, torch.pairwise_distance: -1}
"""Functions of two tensors that multiply element by element and sum, with their default dimension."""


def _inner_products(func: Any, result: Tensor, x1: Tensor, x2: Tensor, *args: Any, **kwargs: Any) -> int:
    """Count result × D products, each over a dimension of size D."""
    dim = _COMPOSED[func]
    if func is not torch.pairwise_distance:  # whose third argument is the power
        dim = kwargs.get("dim", args[0] if args else dim)
    return int(result.numel() * torch.broadcast_shapes(x1.shape, x2.shape)[dim])


def _product(result: Tensor, a: Tensor, b: Tensor, **_: Any) -> int:
    """Count a product of matrices or of a matrix and a vector."""
    columns = 1 if b.ndim == 1 else b.shape[-1]
    if a.layout is not torch.strided:
        return _stored(a) * columns
    if b.layout is not torch.strided:
        return _stored(b) * math.prod(a.shape[:-1])
    return a.numel() * columns


def _added_product(result: Tensor, _added: Any, a: Tensor, b: Tensor, **_: Any) -> int:
    return _product(result, a, b)


def _stored(matrix: Tensor) -> int:
    """Return the number of stored elements of a sparse matrix."""
    return int((matrix._values() if matrix.layout is torch.sparse_coo else matrix.values()).numel())


def _sparse_product(_result: Tensor, a: Tensor, b: Tensor) -> int:
    """Count the pairs of stored elements of two sparse matrices that a product multiplies."""
    inner, columns, rows = a.shape[1], a.to_sparse_coo()._indices()[1], b.to_sparse_coo()._indices()[0]
    return int(torch.bincount(columns, minlength=inner) @ torch.bincount(rows, minlength=inner))


def _distances(result: Tensor, x: Tensor, *_: Any, **__: Any) -> int:
    return result.numel() * x.shape[-1]


def _trilinear(_result: Tensor, a: Tensor, b: Tensor, c: Tensor, *expanded: list[int], **_: Any) -> int:
    """Count the elements of the product a·b·c, each of which has been given dimensions of size 1."""
    shapes = []
    for tensor, dimensions in zip((a, b, c), expanded[:3], strict=True):
        for dimension in dimensions:
            tensor = tensor.unsqueeze(dimension)
        shapes.append(tensor.shape)
    return math.prod(torch.broadcast_shapes(*shapes))


def _attention(_result: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Count q kᵀ and the average of v, for q (…, S, D), k (…, T, D) and v (…, T, E); heads may share k and v."""
    return math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _recurrent(inputs: Tensor, *weights: Any) -> int:
    """Return rows × weights: every step of every sequence is multiplied by each matrix of a layer once."""
    rows = math.prod(inputs.shape[:-1])
    return int(rows * sum(weight.numel() for weight in weights if weight is not None and weight.ndim == 2))


def _weighted_bags(_result: Any, weight: Tensor, indices: Tensor, *args: Any, **_: Any) -> int:
    """Count the rows of an embedding bag times their own weights, if it has any."""
    return int(indices.numel() * weight.shape[1]) if len(args) > 4 and args[4] is not None else 0


_FORMULAS: Mapping[str, Callable[..., int]] = {
    **{f"aten::{name}": _product for name in ("mm", "mv", "dot", "vdot", "hspmm", "_int_mm")},
    **{
        f"aten::{name}": _added_product for name in ("addmm", "addmv", "_addmm_activation", "_sparse_addmm", "sspaddmm")
    },
    **{f"aten::{name}": _distances for name in ("_cdist_forward", "_euclidean_dist", "_pdist_forward")},
    **{
        f"aten::_scaled_dot_product_{name}": _attention
        for name in (
            "flash_attention",
            "flash_attention_for_cpu",
            "fused_attention_overrideable",
            "efficient_attention",
            "cudnn_attention",
        )
    },
    "aten::linear": lambda _, x, weight, *__: x.numel() * weight.shape[0],
    "aten::addr": lambda result, *_, **__: result.numel(),
    "aten::addbmm": lambda _, added, a, b, **__: a.numel() * b.shape[-1],
    "aten::conv_tbc": lambda result, x, weight, *_: result.numel() * weight.shape[0] * weight.shape[1],
    "aten::sparse_sampled_addmm": lambda _, kept, a, b, **__: _stored(kept) * a.shape[-1],
    "aten::_sparse_sparse_matmul": _sparse_product,
    "aten::_trilinear": _trilinear,
    "aten::_embedding_bag": _weighted_bags,
    "aten::_embedding_bag_forward_only": _weighted_bags,
    "aten::mkldnn_rnn_layer": lambda _, inputs, *args, **__: _recurrent(inputs, *args[:2]),
    "aten::_cudnn_rnn": lambda _, inputs, weight, *__, **___: _recurrent(inputs, *weight),
}
"""Multiply-adds of operations from their result and arguments, by name, as versions of torch lack some of them."""

_FLOPS: Mapping[str, Callable[..., int]] = {str(packet).replace(".", "::", 1): f for packet, f in flop_registry.items()}
"""Formulas of torch, two operations for each multiply-add."""

_MULTIPLIES = re.compile(
    r"mm$|matmul|conv|linear|attention|transformer|rnn|lstm|gru|^_fft|linalg|cholesky|lstsq|ormqr|geqrf|_solve|dist_"
)
_DOES_NOT = re.compile(r"upsample|interp|vector_norm|cross|check_errors|convert|prepack|fused_\w+_cell|backward")
_HARMLESS = frozenset(("prim", "prims", "rngprims", "profiler", "c10d", "_c10d_functional", "torchvision"))


def _multiplies(name: str) -> bool:
    """Return whether an operation without a formula may multiply matrices: by its name, or as another library's."""
    library, _, operation = name.partition("::")
    if library == "aten" or (library in _HARMLESS and operation != "deform_conv2d"):
        return library == "aten" and bool(_MULTIPLIES.search(operation)) and not _DOES_NOT.search(operation)
    return not _DOES_NOT.search(operation)
