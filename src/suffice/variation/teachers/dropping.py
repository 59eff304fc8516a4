"""Interception of the dropout calls of a pass: dropout on units, on channels and in attention."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_UNITS = (functional.dropout, torch.dropout, torch.dropout_)
CHANNELS = (functional.dropout1d, functional.dropout2d, functional.dropout3d, torch.feature_dropout)
_RECURRENT = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
REFUSED = {
    functional.alpha_dropout: "does not multiply by a mask",
    functional.feature_alpha_dropout: "does not multiply by a mask",
    torch.native_dropout: "returns its mask too",
    **dict.fromkeys(_RECURRENT, "drops between its own layers"),
}
"""Functions whose dropout cannot be replaced by a mask, and the reason."""
ATTENTION = (functional.scaled_dot_product_attention, functional.multi_head_attention_forward)
_MULTI_HEAD = inspect.signature(functional.multi_head_attention_forward)


class Dropping(TorchFunctionMode):
    """Function mode that replaces active dropout, and keeps batch normalization in evaluation mode.

    Args:
        drop: Replacement of a dropout call, `drop(function, units, rate)`. It returns the dropped units.
        attend: Replacement of the rate of an attention call, `attend(function, rate)`. It is also called for the
            functions in `REFUSED`, and its result is then not used.
    """

    def __init__(self, drop: Callable[[Any, Tensor, float], Tensor], attend: Callable[[Any, float], float]) -> None:
        super().__init__()
        self.drop, self.attend = drop, attend

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _UNITS or func in CHANNELS:
            units, rate, training = _dropout_arguments(*args, **kwargs)
            if training:
                return self.drop(func, units, rate)
        elif func in REFUSED:
            _report_refused(func, args, kwargs, self.attend)
        elif func in ATTENTION:
            args, kwargs = _attention_arguments(func, args, kwargs, lambda rate: self.attend(func, rate))
        elif func is functional.batch_norm and kwargs.get("training") and args[1] is not None:
            kwargs = {**kwargs, "training": False}
        return func(*args, **kwargs)


def _dropout_arguments(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    train: bool | None = None,
) -> tuple[Tensor, float, bool]:
    """Return units, rate and training flag of a dropout call, by the signature of any of its functions."""
    return input, p, training if train is None else train


def _report_refused(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], attend: Callable[[Any, float], float]
) -> None:
    """Pass a dropout that cannot be replaced by a mask to `attend`, if it is active."""
    if func in _RECURRENT:
        position = next(i for i, value in enumerate(args) if isinstance(value, float))
        rate, training = args[position : position + 2]
    else:
        _, rate, training = _dropout_arguments(*args, **kwargs)
    if training and rate:
        attend(func, rate)


def _attention_arguments(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], attend: Callable[[float], Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of an attention call, with the rate of active dropout replaced by `attend(rate)`."""
    if func is functional.multi_head_attention_forward:
        bound = _MULTI_HEAD.bind(*args, **kwargs)
        bound.apply_defaults()
        if bound.arguments["training"]:
            bound.arguments["dropout_p"] = attend(bound.arguments["dropout_p"])
        return bound.args, bound.kwargs
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
    kwargs = {**dict(zip(names, args, strict=False)), **kwargs}
    if kwargs.get("dropout_p", 0.0) > 0:
        kwargs["dropout_p"] = attend(kwargs["dropout_p"])
    return (), kwargs
