"""Interception of the dropout calls of a pass: dropout on units, on channels and in attention."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_IN_PLACE = (torch.dropout_, torch.feature_dropout_)
_UNITS = (functional.dropout, torch.dropout, torch.dropout_)
_CHANNELS = (
    *(functional.dropout1d, functional.dropout2d, functional.dropout3d),
    *(torch.feature_dropout, torch.feature_dropout_),
)
_UNBATCHED = {functional.dropout1d: 2, functional.dropout3d: 4}
"""Number of dimensions that a function takes as a single example, whose channels come first."""
_RECURRENT = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
_ALPHA = (
    *(functional.alpha_dropout, functional.feature_alpha_dropout),
    *(torch.alpha_dropout, torch.alpha_dropout_, torch.feature_alpha_dropout, torch.feature_alpha_dropout_),
)
REFUSED = {
    **dict.fromkeys(_ALPHA, "does not multiply by a mask"),
    torch.native_dropout: "returns its mask too",
    **dict.fromkeys(_RECURRENT, "drops between its own layers"),
}
"""Functions whose dropout cannot be replaced by a mask, and the reason."""
ATTENTION = (functional.scaled_dot_product_attention, functional.multi_head_attention_forward)
_MULTI_HEAD = inspect.signature(functional.multi_head_attention_forward)


@dataclass(frozen=True)
class Dropout:
    """Call of dropout with its units.

    Attributes:
        function: Function that is called.
        units: Input, with the units that are dropped.
        rate: Probability of dropping a unit.
        in_place: Whether the call writes into its input.
    """

    function: Any
    units: Tensor
    rate: float
    in_place: bool

    @property
    def mask_shape(self) -> tuple[int, ...]:
        """Shape of the mask, with one entry for each unit or channel that is dropped as a whole."""
        shape = tuple(self.units.shape)
        if self.function in _UNITS:
            return shape
        leading = 1 if _UNBATCHED.get(self.function) == len(shape) else 2
        return shape[:leading] + (1,) * (len(shape) - leading)


class Dropping(TorchFunctionMode):
    """Function mode that replaces active dropout, and keeps batch normalization in evaluation mode.

    Args:
        drop: Replacement of a dropout call. It returns the dropped units.
        attend: Replacement of the rate of an attention call, `attend(function, rate)`. It is also called for the
            functions in `REFUSED`, and its result is then not used.
    """

    def __init__(self, drop: Callable[[Dropout], Tensor], attend: Callable[[Any, float], float]) -> None:
        super().__init__()
        self.drop, self.attend = drop, attend

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _UNITS or func in _CHANNELS:
            units, rate, training, in_place = _dropout_arguments(*args, **kwargs)
            if training is not False:
                return self.drop(Dropout(func, units, rate, in_place or func in _IN_PLACE))
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
    training: bool | None = None,
    inplace: bool = False,
    *,
    train: bool | None = None,
) -> tuple[Tensor, float, bool | None, bool]:
    """Return units, rate, training and in-place flag of a dropout call, by the signature of any of its functions.

    The training flag is None where it is left to the function's default.
    """
    return input, p, training if train is None else train, inplace


def _report_refused(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], attend: Callable[[Any, float], float]
) -> None:
    """Pass a dropout that cannot be replaced by a mask to `attend`, if it is active."""
    if func in _RECURRENT:
        position = next(i for i, value in enumerate(args) if isinstance(value, float))
        rate, training = args[position : position + 2]
    else:
        _, rate, training, _ = _dropout_arguments(*args, **kwargs)  # the default of those with one is False
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
