"""Features of one ordinary pass: activation strengths, one row of numbers per example.

    (N, D)          the D values
    (N, T, D)       mean and max over the T tokens of each of the D values
    (N, C, H, W)    mean and max over the positions of each of the C channels (any number of positions)

or, as on and off, whether each value is above zero, and the share of tokens or positions where it is. Chen et al.
2021 (arXiv 2008.07032) and Yu et al. 2021 (arXiv 2110.06435) predict from them how much a network's answer varies.
Layers are watched by forward hooks on a twin of the network, which leave its output as it is.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules import activation

from suffice.network import State, batch_size, call
from suffice.twin import inference
from suffice.twin.hooks import by_name, check_open, hooked, matching

Kind = Literal["value", "on", "both"]

_NOT_STRENGTHS = {"MultiheadAttention", "Softmin", "Softmax", "Softmax2d", "LogSoftmax"}
ACTIVATIONS = tuple(getattr(activation, name) for name in activation.__all__ if name not in _NOT_STRENGTHS)
"""Module classes whose output is watched where no layer is named."""


def capture(model: nn.Module, x: State, layers: Sequence[str], kind: Kind = "value") -> tuple[Any, dict[str, Tensor]]:
    """The output of one ordinary pass and the strengths of `layers`.

    A layer that runs more than once in a pass gives one set of strengths each time, in the order of running.

    Args:
        model: run as a twin in evaluation mode, without gradients.
        x: a batch of N examples, a tensor or a nest of tensors.
        layers: names of modules, from `layer_names`.
        kind: the values, whether they are above zero, or both.

    Returns:
        The model's own output, bit for bit, and each layer's strengths (N, F) float32.

    Raises:
        ValueError: if a name is not in the model, or a layer's output does not begin with the N examples.
        TypeError: if a layer's output is not a tensor.
        RuntimeError: if a layer did not run.
    """
    with inference(model) as twin:
        return read(twin, x, layers, kind)


def read(model: nn.Module, x: State, layers: Sequence[str], kind: Kind) -> tuple[Any, dict[str, Tensor]]:
    """The same of a twin that there is already."""
    rows = batch_size(x)
    modules = by_name(model, layers)
    check_open(modules)
    seen: dict[str, list[Tensor]] = {name: [] for name in modules}

    def watch(name: str, output: Tensor) -> None:
        seen[name] += summary(name, output, rows, kind)

    with hooked(modules, watch):
        output = call(model, x)
    return output, {name: torch.cat(parts, dim=1) if len(parts) > 1 else parts[0] for name, parts in seen.items()}


def layer_names(model: nn.Module, layers: str | Sequence[str] | None) -> tuple[str, ...]:
    """Names of the layers to watch, in the model's order.

    Args:
        model: its modules are searched.
        layers: names or patterns (`fnmatch`), "all" or None for every activation module (`ACTIVATIONS`), "last" for
            the last of them.

    Raises:
        ValueError: if there is no activation module, or a pattern matches nothing.
    """
    if layers not in (None, "all", "last"):
        return tuple(matching(model, layers or []))
    found = tuple(name for name, module in model.named_modules() if name and isinstance(module, ACTIVATIONS))
    if not found:
        raise ValueError(
            "expected a model with activation modules (nn.ReLU, nn.GELU, …), found none: activations called as "
            "functions cannot be seen; name the layers to watch, layers=[…], or pass layers=[] for the output alone"
        )
    return found[-1:] if layers == "last" else found


def summary(name: str, output: Tensor, rows: int, kind: Kind) -> list[Tensor]:
    """Strengths (N, F) float32 of one layer; a copy, since a later in-place operation may overwrite `output`."""
    if output.ndim < 2 or len(output) != rows:
        raise ValueError(
            f"expected an output of layer {name!r} with the {rows} examples first, got shape "
            f"{tuple(output.shape)}; leave that layer out"
        )
    values = output.detach().to(torch.float32, copy=True)
    if output.ndim == 2:
        return [part for part, wanted in ((values, "value"), ((values > 0).float(), "on")) if kind in (wanted, "both")]
    positions = values.mT if output.ndim == 3 else values.flatten(start_dim=2)
    pooled = [positions.mean(dim=2), positions.amax(dim=2)] if kind != "on" else []
    return pooled if kind == "value" else [*pooled, (positions > 0).float().mean(dim=2)]
