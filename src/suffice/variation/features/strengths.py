"""Activation strengths of one deterministic forward pass: one row of numbers per example.

    (N, D)          the D values
    (N, T, D)       mean and max of each of the D values over the T tokens, without padding
    (N, C, H, W)    mean and max of each of the C channels over the positions (any number of dimensions)

or, with kind "on", 1 for each value above zero, and the fraction of tokens or positions where it is above zero. Chen
et al. 2021 (arXiv 2008.07032) and Yu et al. 2021 (arXiv 2110.06435) predict the variation of a network from them.
Strengths are recorded on a twin of the network, by forward hooks on modules and by a function mode for activations that
are called as functions (`suffice.variation.features.activations`). Both leave its output unchanged.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor, nn

from suffice.attach.tokens.layout import has_channels_first
from suffice.attach.tokens.masks import TokenMask
from suffice.attach.tokens.reading import mask_of
from suffice.inputs import prepare
from suffice.network import State, batch_size, call
from suffice.twin import inference
from suffice.twin.hooks import by_name, check_hookable, hooked, matching
from suffice.variation.features import activations
from suffice.variation.features.activations import caller_of, recorded_calls

Kind = Literal["value", "on", "both"]


def capture(model: nn.Module, x: State, layers: Sequence[str], kind: Kind = "value") -> tuple[Any, dict[str, Tensor]]:
    """Run one deterministic forward pass and read the strengths of `layers`.

    A layer that runs more than once in a pass has one set of strengths for each run, in the order of the runs.

    Args:
        model: Model. A twin of it runs in evaluation mode, without gradients.
        x: Batch of N examples, a tensor or a nest of tensors.
        layers: Names of modules and calls, from `layer_names`.
        kind: "value" for the values, "on" for whether they are above zero, or "both".

    Returns:
        The model's own output, bit for bit, and the strengths (N, F) float32 of each layer by name.

    Raises:
        ValueError: If a name is not in the model, or the first dimension of a layer's output is not N.
        TypeError: If a layer's output is not a tensor.
        RuntimeError: If a layer did not run.
    """
    with inference(model) as twin:
        x = prepare(x, model)
        return read(twin, x, layers, kind, mask_of(twin, x))


def read(
    model: nn.Module, x: State, layers: Sequence[str], kind: Kind, mask: TokenMask | None = None
) -> tuple[Any, dict[str, Tensor]]:
    """Read strengths as `capture` does, from a model that is a twin in evaluation mode already, with a known mask."""
    rows = batch_size(x)
    calls = function_calls(model, layers)
    modules = by_name(model, [name for name in layers if name not in calls])
    check_hookable(modules)
    strengths: dict[str, list[Tensor]] = {name: [] for name in (layers if calls else modules)}

    def record(name: str, output: Tensor) -> None:
        counted = None
        if mask is not None and output.ndim > 2 and not has_channels_first(_module_of(model, name)):
            counted = mask(x, output.shape[1])
        strengths[name] += summary(name, output, rows, kind, counted)

    with hooked(modules, record), recorded_calls(model, calls, record):
        output = call(model, x)
    return output, {name: torch.cat(parts, dim=1) if len(parts) > 1 else parts[0] for name, parts in strengths.items()}


def layer_names(model: nn.Module, x: State, layers: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the layers to read: modules in the model's order, each followed by the calls in its forward.

    Args:
        model: Model that has the layers; only twins of it run.
        x: Batch of inputs, of which two and three examples show which activations run.
        layers: Names or patterns (`fnmatch`) of modules, and of calls ("encoder:relu", ":tanh:2", "*:gelu"), "all" or
            None for every activation layer whose output has the examples first, "last" for the last of them to run.

    Raises:
        ValueError: If there is no activation layer outside compiled parts, or a pattern matches nothing.
    """
    if isinstance(layers, str) and layers not in ("all", "last"):
        layers = [layers]
    if layers is not None and not isinstance(layers, str):
        calls = _matching_calls(model, x, [pattern for pattern in layers if ":" in pattern])
        patterns = [pattern for pattern in layers if not any(fnmatchcase(name, pattern) for name in calls)]
        return _in_order(model, [*matching(model, patterns), *calls])
    with inference(model) as twin:
        found = activations.find(twin, x)
        if not found:
            check_hookable(dict(twin.named_modules()))
    if not found:
        raise ValueError(
            "expected a model with activations (nn.ReLU, F.gelu, torch.tanh, …) whose output has the examples first, "
            "found none; name the layers to read, layers=[…], or pass layers=[] for the output alone"
        )
    return (found[-1],) if layers == "last" else _in_order(model, found)


def function_calls(model: nn.Module, names: Sequence[str]) -> list[str]:
    """Return those of some names that are calls in the forward of a module of the model, and not modules themselves."""
    callers = [(name, caller) for name in names if (caller := caller_of(name)) is not None]
    if not callers:
        return []
    modules = dict(model.named_modules(remove_duplicate=False))
    return [name for name, caller in callers if name not in modules and caller in modules]


def _matching_calls(model: nn.Module, x: State, patterns: Sequence[str]) -> list[str]:
    """Return the calls that run and match a pattern."""
    if not patterns:
        return []
    with inference(model) as twin:
        found = activations.find(twin, x)
    calls = function_calls(model, found)
    return [name for name in calls if any(fnmatchcase(name, pattern) for pattern in patterns)]


def are_layers(model: nn.Module, names: Sequence[str]) -> bool:
    """Return whether names are different layers of a model, modules or calls in their forward, in order."""
    modules = {name for name, _ in model.named_modules(remove_duplicate=False) if name}
    known = modules.union(function_calls(model, names))
    return known.issuperset(names) and len(set(names)) == len(names) and _in_order(model, names) == tuple(names)


def _in_order(model: nn.Module, names: Sequence[str]) -> tuple[str, ...]:
    """Sort names of modules and calls by the place of the module in the model; calls keep their order."""
    places = {name: i for i, (name, _) in enumerate(model.named_modules(remove_duplicate=False))}
    calls = set(function_calls(model, names))

    def place(name: str) -> tuple[int, bool]:
        return places[(caller_of(name) or "") if name in calls else name], name in calls

    return tuple(sorted(names, key=place))


def _module_of(model: nn.Module, name: str) -> nn.Module:
    """Return the module of a layer, or the one that calls it."""
    modules: dict[str, nn.Module] = dict(model.named_modules(remove_duplicate=False))
    return modules[name] if name in modules else modules[caller_of(name) or ""]


def summary(name: str, output: Tensor, rows: int, kind: Kind, counted: Tensor | None = None) -> list[Tensor]:
    """Return the strengths of one layer.

    They are copies, since a later in-place operation of the model may overwrite `output`.

    Args:
        name: Name of the layer, for the message.
        output: Output of the layer, (N, D), (N, T, D) or (N, C, …).
        rows: Number N of examples.
        kind: Kind of strengths.
        counted: Tokens (N, T) that count, bool; None if all do.

    Returns:
        Tensors (N, F) float32, to be concatenated.

    Raises:
        ValueError: If the first dimension of the output is not N, or it has another number of tokens than the mask.
    """
    if output.ndim < 2 or output.shape[0] != rows:
        raise ValueError(
            f"expected an output of layer {name!r} with the {rows} examples first, got shape "
            f"{tuple(output.shape)}; pass x[None], if the input is one example without the batch axis, or leave that "
            "layer out, if its output has no row for each example"
        )
    if counted is not None and (output.ndim != 3 or counted.shape != output.shape[:2]):
        raise ValueError(
            f"expected an output of layer {name!r} with the {tuple(counted.shape)} tokens of the mask, (N, T, D), got "
            f"shape {tuple(output.shape)}, in which some positions may be padding; leave that layer out"
        )
    values = output.detach().to(torch.float32, copy=True)
    if output.ndim == 2:
        on = (values > 0).float()
        return {"value": [values], "on": [on], "both": [values, on]}[kind]
    positions = values.mT if output.ndim == 3 else values.flatten(start_dim=2)
    if counted is not None:
        return _masked(positions, counted, kind)
    pooled = [positions.mean(dim=2), positions.amax(dim=2)] if kind != "on" else []
    return pooled if kind == "value" else [*pooled, (positions > 0).float().mean(dim=2)]


def _masked(positions: Tensor, counted: Tensor, kind: Kind) -> list[Tensor]:
    """Pool values (N, D, T) over the tokens that count; 0 where none does."""
    counted = counted[:, None].to(positions.device)
    number = counted.sum(dim=2).clamp_min(1)
    mean = positions.masked_fill(~counted, 0).sum(dim=2) / number
    greatest = positions.masked_fill(~counted, -torch.inf).amax(dim=2)
    pooled = [mean, greatest.masked_fill(~counted.any(dim=2), 0)] if kind != "on" else []
    return pooled if kind == "value" else [*pooled, ((positions > 0) & counted).sum(dim=2) / number]
