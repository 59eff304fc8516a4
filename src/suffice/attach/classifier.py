"""Search for a model's classifier: the linear layer whose output the model returns.

It is found by its output in one observed pass, and accepted if nothing but a selection lies behind it
(`suffice.attach.behind`).
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from suffice.attach.behind import Behind, Watched
from suffice.attach.interception import intercepted, pass_through
from suffice.network import State, call, check_finite, output_tensor
from suffice.twin import inference, is_twin

_REMEDY = (
    "let the model return the logits of an nn.Linear with input (N, D), "
    "or cut it by hand: suffice.ExitNetwork([stage], [suffice.Exit(features, classifier)])"
)


def find_classifier(model: nn.Module, example: State) -> tuple[str, bool]:
    """Find the linear layer whose output is that of a model.

    Args:
        model: Trained classifier, run in evaluation mode as a twin (`suffice.twin`).
        example: Batch of inputs on the model's device, preferably two examples or more.

    Returns:
        The name of the layer, and whether the model selects positions from its output.

    Raises:
        TypeError: If the output is not a tensor.
        ValueError: If the logits are not the output of a single linear layer, or a selection of its positions, or are
            not finite; if other entries of a tuple may be the logits as well.
    """
    runs: list[_Run] = []
    given: dict[nn.Module, Any] = {}

    def note(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given[layer] = args[0] if args else kwargs["input"]

    def record(name: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        phi = args[0] if args else kwargs["input"]
        runs.append(_Run(name, layers[name], phi, given[layers[name]] is not phi))
        return forward(*args, **kwargs)

    with inference(model) as twin:
        linear = {name: module for name, module in twin.named_modules() if isinstance(module, nn.Linear)}
        layers = {name: module for name, module in linear.items() if is_twin(module)}  # the others are compiled
        with ExitStack() as hooks, intercepted(layers, record):
            for layer in layers.values():
                hooks.callback(layer.register_forward_pre_hook(note, prepend=True, with_kwargs=True).remove)
            output = call(twin, example)
        logits = output_tensor(output)
        check_finite(logits, "logits")
        matching = [run for run in runs if run.produces(logits)]
        if not matching:
            raise ValueError(_no_classifier_message(model, runs, logits))
        _check_used_once(twin, matching[-1], runs)
        _check_alone(matching[-1], runs, output)
        return matching[-1].name, _selects(twin, matching[-1], example, logits)


@dataclass(frozen=True)
class _Run:
    """Run of a linear layer in a pass: its name, its input φ, and whether a hook of the layer replaced it."""

    name: str
    layer: nn.Linear
    phi: Tensor
    hooked: bool = False

    def __str__(self) -> str:
        return f"{self.name!r} ({self.layer.in_features} → {self.layer.out_features})"

    def produces(self, output: Tensor) -> bool:
        """Return whether W φ + b, or one position of it per example, is the model's output up to rounding."""
        if self.hooked or self.phi.ndim not in (2, 3) or self.phi.dtype != self.layer.weight.dtype:
            return False
        logits = functional.linear(self.phi, self.layer.weight, self.layer.bias)
        if self.phi.ndim == 3:
            return output.shape == (len(logits), logits.shape[2]) and _has_row(logits, output)
        if output.ndim == 1 and self.layer.out_features == 1:  # a single output, squeezed
            output = output[:, None]
        if output.shape != logits.shape:
            return False
        return _close(logits, output)


def _rounding(logits: Tensor) -> Tensor:
    tolerance: Tensor = torch.finfo(logits.dtype).eps ** 0.75 * logits.abs().max()
    return tolerance


def _close(logits: Tensor, output: Tensor) -> bool:
    return bool((logits - output).abs().max() <= _rounding(logits))


def _has_row(logits: Tensor, output: Tensor) -> bool:
    """Return whether each row of `output` (N, C) is one of the positions of `logits` (N, T, C)."""
    return bool(((logits - output[:, None]).abs().amax(dim=2).amin(dim=1) <= _rounding(logits)).all())


def _selects(model: nn.Module, classifier: _Run, example: State, logits: Tensor) -> bool:
    """Return whether a twin selects from its classifier's output; refuse one that changes the values."""
    given: list[tuple[Tensor, Tensor]] = []

    def watch(_name: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        output = forward(*args, **kwargs)
        given.append((output, output.clone()))
        return Watched.of(output)

    with intercepted({classifier.name: classifier.layer}, watch):
        behind = Behind.of(output_tensor(call(model, example)))
    for output, before in given:  # written into by code that torch does not see
        if not torch.allclose(output, before, rtol=0, atol=0, equal_nan=True):
            behind = Behind(behind.selects, behind.changes or "a write into its memory")
    if behind.changes:
        raise ValueError(
            f"expected the output of {classifier} as the model's, got {behind.changes} behind it, which may change the "
            f"logits of other inputs; {_REMEDY}"
        )
    if not behind.selects and classifier.phi.ndim == 2:
        return False
    with intercepted({classifier.name: classifier.layer}, pass_through):
        phi = output_tensor(call(model, example))
    layer = classifier.layer
    if layer.out_features == 1 and phi.ndim == 1 and torch.equal(phi, classifier.phi[:, 0]):
        return False  # the only column, [:, 0]: the same as squeezed
    selected = phi.shape == (len(logits), layer.in_features)
    if not selected or not _close(functional.linear(phi, layer.weight, layer.bias), logits):
        raise ValueError(
            f"expected a model that selects positions from the output of {classifier}, got one that selects something "
            f"else; {_REMEDY}"
        )
    return True


def _check_used_once(model: nn.Module, classifier: _Run, runs: Iterable[_Run]) -> None:
    """Raise a ValueError if the classifier's weight is used elsewhere in the model, as φ would depend on it."""
    layer = classifier.layer
    times = sum(run.layer is layer for run in runs)
    owners = [
        name
        for name, module in model.named_modules()
        if any(parameter is layer.weight for parameter in module.parameters(recurse=False))
    ]
    if times > 1 or len(owners) > 1:
        uses = f"{times} runs" if times > 1 else f"its weight shared by {owners}"
        raise ValueError(
            f"expected the classifier {classifier} to be used once in a pass, got {uses}; use a separate layer"
        )


def _check_alone(classifier: _Run, runs: Iterable[_Run], output: Any) -> None:
    """Raise a ValueError if a tuple has outputs (N, C) of two linear layers of different C: either may be the logits.

    With the same C, as of an auxiliary classifier, the first entry is the logits.
    """
    if not isinstance(output, tuple) or hasattr(output, "logits"):
        return
    others = [run for run in runs if run.layer.out_features != classifier.layer.out_features]
    for i, entry in enumerate(output):
        for run in others:
            if isinstance(entry, Tensor) and run.produces(entry):
                raise ValueError(
                    f"expected logits as the only output of a linear layer, got a tuple with that of {classifier} "
                    f"first and that of {run} at position {i}: either may be the logits; wrap the model so "
                    "that it returns its logits alone"
                )


def _no_classifier_message(model: nn.Module, runs: list[_Run], logits: Tensor) -> str:
    """Compose the error message for a model whose output is not that of a linear layer."""
    if logits.ndim > 3 or (logits.ndim > 2 and not runs):
        return (
            f"expected one prediction for each example, logits (N, C), got {type(model).__name__} with an output of "
            f"shape {tuple(logits.shape)}, one for each position, as of a segmentation; calibrate a model that pools "
            "the positions before its last nn.Linear"
        )
    if not runs:
        reason = (
            f"{type(model).__name__}, in which no nn.Linear ran: its last layer may be another module, or the model is "
            "compiled; "
        )
    elif runs[-1].phi.ndim != 2 and logits.ndim != 2:
        reason = f"{runs[-1]} as the last, with an input of shape {tuple(runs[-1].phi.shape)}, not (N, D); "
    elif runs[-1].phi.dtype != runs[-1].layer.weight.dtype:
        reason = f"{runs[-1]} as the last, with {runs[-1].phi.dtype} input and {runs[-1].layer.weight.dtype} weights; "
    else:
        reason = (
            f"an output of shape {tuple(logits.shape)} that is not the output of {runs[-1]}, the last one to run; "
            "if forward() applies softmax or scaling after it, remove that; "
        )
    return f"expected an nn.Linear with the same output as the model, got {reason}{_REMEDY}"
