"""Layouts of tensors with three dimensions: tokens (N, T, C), or channels first (N, C, T).

The layout of a tensor is that of the last layer before it that has one, such as a convolution or a linear layer.
Activations, dropout and modules of other libraries keep it, or transpose: then the sizes differ from the layer's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules import batchnorm, conv, instancenorm, pooling

from suffice.attach.interception import intercepted
from suffice.utils.nest import tree_leaves

Layout = Literal["tokens", "channels first", "unclear"]

_CHANNELS_FIRST = (
    *(conv._ConvNd, batchnorm._BatchNorm, instancenorm._InstanceNorm, nn.GroupNorm, nn.Upsample, nn.Dropout1d),
    *(pooling._MaxPoolNd, pooling._AvgPoolNd, pooling._LPPoolNd),
    *(pooling._AdaptiveMaxPoolNd, pooling._AdaptiveAvgPoolNd),
)
_CHANNELS_LAST = (
    *(nn.Linear, nn.LayerNorm, nn.Embedding, nn.RNNBase, nn.MultiheadAttention),
    *(nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, getattr(nn, "RMSNorm", nn.LayerNorm)),
)


class Layouts:
    """Record of the last layer with a known layout in a pass.

    Args:
        examples: Number N of examples; outputs of other sizes are not recorded.
    """

    def __init__(self, examples: int) -> None:
        self._examples = examples
        self._last: tuple[bool, torch.Size] | None = None

    def add(self, module: nn.Module, output: Any) -> None:
        """Record the output of a module that has a layout."""
        if not isinstance(module, (*_CHANNELS_FIRST, *_CHANNELS_LAST)):
            return
        tensor = next((leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)), None)
        if tensor is not None and tensor.ndim > 2 and len(tensor) == self._examples:
            self._last = isinstance(module, _CHANNELS_FIRST), tensor.shape

    def of(self, tensor: Tensor, end: nn.Module) -> Layout:
        """Return the layout of a tensor of three dimensions, the output of the module `end`."""
        if self._last is None:
            return "tokens"
        channels_first, known = self._last
        if not channels_first:
            return _after_tokens(known, tensor.shape)
        layout = _after_channels_first(known, tensor.shape)
        if layout == "unclear" and tensor.shape == known and _is_transparent(end):
            return "channels first"
        return layout

    @contextmanager
    def recording(self, model: nn.Module) -> Iterator[None]:
        """Record the modules of a model that run in the body."""
        modules = {name: module for name, module in model.named_modules() if name}

        def handle(name: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            output = forward(*args, **kwargs)
            self.add(modules[name], output)
            return output

        layers = {
            name: module for name, module in modules.items() if isinstance(module, (*_CHANNELS_FIRST, *_CHANNELS_LAST))
        }
        with intercepted(layers, handle):
            yield


def _after_channels_first(known: torch.Size, shape: torch.Size) -> Layout:
    """Return the layout of (N, A, B) behind a layer whose output is (N, C, …)."""
    _, a, b = shape
    if a == b:
        return "unclear"
    if known[1] in (a, b):
        return "channels first" if a == known[1] else "tokens"
    if len(known) == 3 and known[2] in (a, b):
        return "channels first" if b == known[2] else "tokens"
    return "unclear"


def _after_tokens(known: torch.Size, shape: torch.Size) -> Layout:
    """Return the layout of (N, A, B) behind a layer whose output is (N, T, C)."""
    _, a, b = shape
    return "unclear" if a == known[-1] and a != known[1] and b != known[-1] else "tokens"


def _is_transparent(end: nn.Module) -> bool:
    """Return whether a module consists of torch's own, none of which transposes."""
    return all(type(module).__module__.startswith("torch.nn.") for module in end.modules())


def has_channels_first(module: nn.Module) -> bool:
    """Return whether the last layer with a known layout in a module has its channels first."""
    known = [each for each in module.modules() if isinstance(each, (*_CHANNELS_FIRST, *_CHANNELS_LAST))]
    return bool(known) and isinstance(known[-1], _CHANNELS_FIRST)
