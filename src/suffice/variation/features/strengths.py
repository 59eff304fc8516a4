"""Activation strengths of one deterministic forward pass: one row of numbers per example.

    (N, D)          the D values
    (N, T, D)       mean and max of each of the D values over the T tokens
    (N, C, H, W)    mean and max of each of the C channels over the positions (any number of dimensions)

or, with kind "on", 1 for each value above zero, and the fraction of tokens or positions where it is above zero. Chen
et al. 2021 (arXiv 2008.07032) and Yu et al. 2021 (arXiv 2110.06435) predict the variation of a network from them.
Strengths are recorded by forward hooks on a twin of the network, which leave its output unchanged.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules import activation

from suffice.inputs import prepare
from suffice.network import State, batch_size, call
from suffice.twin import inference
from suffice.twin.hooks import by_name, check_hookable, hooked, matching

Kind = Literal["value", "on", "both"]

_NOT_STRENGTHS = {"MultiheadAttention", "Softmin", "Softmax", "Softmax2d", "LogSoftmax"}
ACTIVATIONS = tuple(getattr(activation, name) for name in activation.__all__ if name not in _NOT_STRENGTHS)
"""Classes of modules whose output is read if no layer is named."""


def capture(model: nn.Module, x: State, layers: Sequence[str], kind: Kind = "value") -> tuple[Any, dict[str, Tensor]]:
    """Run one deterministic forward pass and read the strengths of `layers`.

    A layer that runs more than once in a pass has one set of strengths for each run, in the order of the runs.

    Args:
        model: Model. A twin of it runs in evaluation mode, without gradients.
        x: Batch of N examples, a tensor or a nest of tensors.
        layers: Names of modules, from `layer_names`.
        kind: "value" for the values, "on" for whether they are above zero, or "both".

    Returns:
        The model's own output, bit for bit, and the strengths (N, F) float32 of each layer by name.

    Raises:
        ValueError: If a name is not in the model, or the first dimension of a layer's output is not N.
        TypeError: If a layer's output is not a tensor.
        RuntimeError: If a layer did not run.
    """
    with inference(model) as twin:
        return read(twin, prepare(x, model), layers, kind)


def read(model: nn.Module, x: State, layers: Sequence[str], kind: Kind) -> tuple[Any, dict[str, Tensor]]:
    """Read strengths as `capture` does, from a model that is a twin in evaluation mode already."""
    rows = batch_size(x)
    modules = by_name(model, layers)
    check_hookable(modules)
    strengths: dict[str, list[Tensor]] = {name: [] for name in modules}

    def record(name: str, output: Tensor) -> None:
        strengths[name] += summary(name, output, rows, kind)

    with hooked(modules, record):
        output = call(model, x)
    return output, {name: torch.cat(parts, dim=1) if len(parts) > 1 else parts[0] for name, parts in strengths.items()}


def layer_names(model: nn.Module, layers: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the layers to read, in the model's order.

    Args:
        model: Model that has the layers.
        layers: Names or patterns (`fnmatch`), "all" or None for every activation module (`ACTIVATIONS`), "last" for
            the last of them.

    Raises:
        ValueError: If there is no activation module, or a pattern matches nothing.
    """
    if layers not in (None, "all", "last"):
        return tuple(matching(model, layers or []))
    names = tuple(name for name, module in model.named_modules() if name and isinstance(module, ACTIVATIONS))
    if not names:
        raise ValueError(
            "expected a model with activation modules (nn.ReLU, nn.GELU, …), found none: activations called as "
            "functions cannot be hooked; name the layers to read, layers=[…], or pass layers=[] for the output alone"
        )
    return names[-1:] if layers == "last" else names


def summary(name: str, output: Tensor, rows: int, kind: Kind) -> list[Tensor]:
    """Return the strengths of one layer.

    They are copies, since a later in-place operation of the model may overwrite `output`.

    Args:
        name: Name of the layer, for the message.
        output: Output of the layer, (N, D), (N, T, D) or (N, C, …).
        rows: Number N of examples.
        kind: Kind of strengths.

    Returns:
        Tensors (N, F) float32, to be concatenated.

    Raises:
        ValueError: If the first dimension of the output is not N.
    """
    if output.ndim < 2 or len(output) != rows:
        raise ValueError(
            f"expected an output of layer {name!r} with the {rows} examples first, got shape "
            f"{tuple(output.shape)}; leave that layer out"
        )
    values = output.detach().to(torch.float32, copy=True)
    if output.ndim == 2:
        on = (values > 0).float()
        return {"value": [values], "on": [on], "both": [values, on]}[kind]
    positions = values.mT if output.ndim == 3 else values.flatten(start_dim=2)
    pooled = [positions.mean(dim=2), positions.amax(dim=2)] if kind != "on" else []
    return pooled if kind == "value" else [*pooled, (positions > 0).float().mean(dim=2)]
