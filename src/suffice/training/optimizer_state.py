"""State of any optimizer of torch's as tensors, and back: momentum of SGD, moments and step counts of Adam."""

import copy
from typing import Any

import torch
from torch import Tensor

from suffice.storage.parts import ANY, NOT_NEGATIVE, Parts

_NOT_NEGATIVE = ("step", "exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum")
"""States that are counts or sums of squares in every optimizer of torch's that has them."""


def tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of an optimizer by the number of its parameter and its name.

    Raises:
        TypeError: If it holds something else than tensors and numbers.
    """
    result = {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                result[f"{index}.{name}"] = value
            elif isinstance(value, bool | int | float):
                result[f"{index}.{name}"] = torch.tensor(float(value), dtype=torch.float64)
            elif value is not None:
                raise TypeError(
                    f"expected an optimizer whose state consists of tensors and numbers, got {type(value).__name__} as "
                    f"{name!r} of {type(optimizer).__name__}; train without a checkpoint, or use torch.optim.AdamW"
                )
    return result


def read(parts: Parts, optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Any]]:
    """Read the state of an optimizer, for `load_state_dict`; that of a parameter is complete or absent.

    Tensors get the memory format of their parameter, so that further steps are equal to the byte.
    """
    states: dict[int, dict[str, Any]] = {}
    for index, expected in _template(optimizer).items():
        if any(f"{index}.{name}" in parts for name in expected):
            states[index] = {name: _value(parts, f"{index}.{name}", like) for name, like in expected.items()}
    return states


def _value(parts: Parts, name: str, like: Any) -> Any:
    if like is None:
        return None
    within = NOT_NEGATIVE if name.partition(".")[2] in _NOT_NEGATIVE else ANY
    if not isinstance(like, Tensor):
        return type(like)(parts.tensor(name, "", within, dtype=torch.float64).item())
    value = parts.tensor(name, " ".join(map(str, like.shape)), within, dtype=like.dtype)
    return torch.empty_like(like).copy_(value)


def _template(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Any]]:
    """Return the state after a step of a copy, from which names, types and shapes are taken."""
    dry: torch.optim.Optimizer = copy.deepcopy(getattr(optimizer, "optimizer", optimizer))
    for group in dry.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    dry.step()
    state: dict[int, dict[str, Any]] = dry.state_dict()["state"]
    return state
