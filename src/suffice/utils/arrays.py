"""Conversion of NumPy arrays and lists to tensors where a function takes tensors."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def takes_arrays(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function, so that parameters annotated as `Tensor` or `list[Tensor]` take other arrays too.

    NumPy arrays, lists of numbers and what has `__array__`, such as a pandas column, become tensors of their own type,
    on the device of the first argument that is a tensor. Tensors stay as they are.

    Raises:
        TypeError: On a call, for a value that holds no numbers, with the name of the parameter.
    """
    signature = inspect.signature(function)
    kinds = {name: p.annotation for name, p in signature.parameters.items() if p.annotation in (Tensor, list[Tensor])}

    @functools.wraps(function)
    def converted(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        given = bound.arguments
        if all(isinstance(given[name], Tensor) for name in kinds if name in given):
            return function(*args, **kwargs)
        like = next((value for value in given.values() if isinstance(value, Tensor)), None)
        device = torch.device("cpu") if like is None else like.device
        for name, kind in kinds.items():
            if name not in given:
                continue
            several = kind is not Tensor and isinstance(given[name], (list, tuple))
            given[name] = (
                [_tensor(name, value, device) for value in given[name]]
                if several
                else _tensor(name, given[name], device)
            )
        return function(*bound.args, **bound.kwargs)

    return converted


def _tensor(name: str, value: Any, device: torch.device) -> Tensor:
    """Return a tensor itself, or the tensor of an array or a list of numbers."""
    if isinstance(value, Tensor):
        return value
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"dtype {array.dtype}")
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="))).to(device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"expected {name} as a tensor, an array or a list of numbers, got {type(value).__name__}: {error}"
        ) from error
