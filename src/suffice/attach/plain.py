"""Plain trained classifiers as networks of one stage and one exit.

    stage     the model up to the input of its last linear layer: x → φ (N, D)
    exit      that layer: logits = W φ + b, (N, C)

The classifier is the linear layer whose output equals the model's output in one observed pass. The stage interrupts the
model with an exception when that layer is reached: a complete pass would compute the classifier twice and count it
twice in every cost. Weights are shared with the model, and no hook stays on it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from suffice import batches
from suffice.batches import Loader
from suffice.inputs import prepare
from suffice.network import Exit, ExitNetwork, State, call, check_finite, output_tensor, select
from suffice.storage.fingerprint import check_fingerprint, check_structure, read_structure
from suffice.storage.parts import Parts
from suffice.twin import Twin, inference, is_twin

_REMEDY = (
    "let the model return the logits of an nn.Linear with input (N, D), "
    "or cut it by hand: suffice.ExitNetwork([stage], [suffice.Exit(features, classifier)])"
)


class UpToClassifier(nn.Module):
    """Model up to the input of its classifier.

    Args:
        model: Whole model; a mapping of inputs becomes its keyword arguments.
        classifier: Name of a module in the model that runs once in a pass.
    """

    def __init__(self, model: nn.Module, classifier: str) -> None:
        super().__init__()
        self.model = model
        self.classifier = classifier

    def forward(self, inputs: State) -> Tensor:
        """Return the features φ (N, D) of a batch.

        Raises:
            RuntimeError: If the pass does not reach the classifier.
        """
        return classifier_input(self.model, self.classifier, lambda model: call(model, inputs))


def as_exit_network(model: nn.Module, example: State) -> ExitNetwork:
    """Convert a trained classifier to a network of one stage and one exit; an `ExitNetwork` is returned unchanged.

    Args:
        model: Classifier, run once in evaluation mode as a twin (`suffice.twin`). Its logits (N, C), or (N,) if C = 1,
            are its output, the `.logits` of its output, or the first entry of a tuple.
        example: Batch of inputs, preferably two examples or more.

    Raises:
        TypeError: If the output is not a tensor.
        ValueError: If the logits are not the output of a single linear layer with input (N, D), or are not finite.
    """
    if isinstance(model, ExitNetwork):
        return model
    example, runs = prepare(example, model), list[_Run]()
    with inference(model) as twin:
        linear = [(name, module) for name, module in twin.named_modules() if isinstance(module, nn.Linear)]
        names = {module: name for name, module in linear if is_twin(module)}  # the others are compiled
        with _before(names, lambda layer, phi: runs.append(_Run(names[layer], layer, phi))):
            logits = output_tensor(call(twin, example))
        check_finite(logits, "logits")
        matching = [run for run in runs if run.produces(logits)]
        if not matching:
            raise ValueError(_no_classifier_message(model, runs, logits))
        _check_used_once(twin, matching[-1], runs)
    return at_classifier(model, matching[-1].name)


def at_classifier(model: nn.Module, name: str) -> ExitNetwork:
    """Convert a trained classifier to a network of one stage and one exit, given the name of its last linear layer.

    Raises:
        ValueError: If the model has no linear layer of that name.
    """
    layer = dict(model.named_modules()).get(name)
    if not isinstance(layer, nn.Linear):
        raise ValueError(
            f"expected a model with an nn.Linear at {name!r}, got {type(model).__name__} with "
            f"{'nothing' if layer is None else type(layer).__name__} there; pass the model that was used before"
        )
    network = ExitNetwork([UpToClassifier(model, name)], [Exit(nn.Identity(), layer)])
    for module in network.modules():
        if module is model:
            break
        module.training = model.training
    return network


def from_loader(model: nn.Module, loader: Loader) -> tuple[ExitNetwork, Loader]:
    """Convert a model to a network with exits, with the first batch of a loader as the example.

    A plain model is run on the first two examples, as with one example N could be confused with another dimension of
    size 1.

    Returns:
        The network, and an iterator over all batches of the loader; read it once.

    Raises:
        TypeError: If `model` is not a module.
        ValueError: If `as_exit_network` raises one, or the loader is empty.
    """
    if isinstance(model, ExitNetwork):
        return model, loader
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a classifier, an nn.Module or a suffice.ExitNetwork, got {type(model).__name__}")
    first, loader = batches.peek(loader, model)
    return as_exit_network(model, select(first.inputs, torch.arange(min(2, first.size)))), loader


def network_entries(network: ExitNetwork) -> dict[str, str]:
    """Return the manifest entries that `restore_network` needs: the name of a plain model's classifier."""
    stage = network.stages[0]
    return {"classifier": stage.classifier} if isinstance(stage, UpToClassifier) else {}


def restore_network(network: nn.Module | None, parts: Parts) -> tuple[ExitNetwork, str]:
    """Convert the module passed to `load` to the network that an artifact was made from, and check it.

    Args:
        network: Network or plain model that was passed to `load`.
        parts: Parts of the artifact, with the entries of `network_entries`, the `network_hash` and the `structure`.

    Returns:
        The network and the hash of its weights.

    Raises:
        TypeError: If the network is missing, or is a plain model where an `ExitNetwork` was calibrated.
        ValueError: If its weights or torch modules differ, or it was cut at another classifier.
    """
    entries = {"classifier": parts.text("classifier")} if "classifier" in parts else {}
    network_hash, restored = parts.digest("network_hash"), cut_at_entries(network, entries)
    if network_entries(restored) != entries:
        parts.refuse("classifier", f"that of the network, {network_entries(restored) or 'none'}", entries or "none")
    check_fingerprint(restored, network_hash)
    check_structure(restored, read_structure(parts))
    return restored, network_hash


def cut_at_entries(network: nn.Module | None, entries: Mapping[str, Any]) -> ExitNetwork:
    """Return a network unchanged, or a plain model cut at the classifier in `entries`, without a check of weights.

    Raises:
        TypeError: If the network is missing, or is a plain model and `entries` names no classifier.
        ValueError: If the plain model has no such classifier.
    """
    if isinstance(network, nn.Module) and not isinstance(network, ExitNetwork) and "classifier" in entries:
        network = at_classifier(network, entries["classifier"])
    if not isinstance(network, ExitNetwork):
        kind = "model" if "classifier" in entries else "ExitNetwork"
        raise TypeError(
            f"expected the {kind} that was calibrated, got {type(network).__name__}; pass it as network=…, with the "
            "same exits attached and their weights loaded"
        )
    return network


def classifier_input(model: nn.Module, classifier: str, run: Callable[[nn.Module], object]) -> Tensor:
    """Run a model up to its classifier and return the classifier's input φ.

    The pass runs on a twin, except in training mode, where it has to update the model's own buffers and attributes.

    Args:
        model: Model to run.
        classifier: Name of the classifier, a module of the model.
        run: Function that runs the pass on the model or its twin.

    Raises:
        RuntimeError: If the pass does not reach the classifier.
    """
    if not (is_twin(model) or model.training or torch.compiler.is_compiling()):
        with Twin(model, evaluation=False).running() as twin:
            return classifier_input(twin, classifier, run)
    try:
        with _before([model.get_submodule(classifier)], _stop):
            run(model)
    except _Reached as reached:
        return reached.phi
    raise RuntimeError(f"expected a pass to reach the classifier {classifier!r}, got one that did not")


class _Reached(BaseException):
    """Signal that a pass has reached the classifier; not an `Exception`, which a model might catch."""

    def __init__(self, phi: Tensor) -> None:
        self.phi = phi


@dataclass(frozen=True)
class _Run:
    """Run of a linear layer in a pass: its name and its input φ."""

    name: str
    layer: nn.Linear
    phi: Tensor

    def __str__(self) -> str:
        return f"{self.name!r} ({self.layer.in_features} → {self.layer.out_features})"

    def produces(self, output: Tensor) -> bool:
        """Return whether W φ + b equals the model's output up to rounding."""
        if self.phi.ndim != 2 or self.phi.dtype != self.layer.weight.dtype:
            return False
        logits = functional.linear(self.phi, self.layer.weight, self.layer.bias)
        if output.ndim == 1 and self.layer.out_features == 1:  # a single output, squeezed
            output = output[:, None]
        if output.shape != logits.shape:
            return False
        tolerance = torch.finfo(logits.dtype).eps ** 0.75 * logits.abs().max()
        return bool((logits - output).abs().max() <= tolerance)


def _stop(_layer: nn.Module, phi: Tensor) -> None:
    raise _Reached(phi)


@contextmanager
def _before(layers: Iterable[nn.Module], hook: Callable[[Any, Tensor], None]) -> Iterator[None]:
    """Call `hook(layer, input)` whenever one of `layers` is about to run, before its own hooks."""
    thread = get_ident()

    def watch(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if get_ident() == thread:  # passes of other threads on the same model continue
            hook(layer, args[0] if args else kwargs["input"])

    handles: list[RemovableHandle] = []
    try:
        handles.extend(layer.register_forward_pre_hook(watch, prepend=True, with_kwargs=True) for layer in layers)
        yield
    finally:
        for handle in handles:
            handle.remove()


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
    elif runs[-1].phi.ndim != 2:
        reason = f"{runs[-1]} as the last, with an input of shape {tuple(runs[-1].phi.shape)}, not (N, D); "
    elif runs[-1].phi.dtype != runs[-1].layer.weight.dtype:
        reason = f"{runs[-1]} as the last, with {runs[-1].phi.dtype} input and {runs[-1].layer.weight.dtype} weights; "
    else:
        reason = (
            f"an output of shape {tuple(logits.shape)} that is not the output of {runs[-1]}, the last one to run; "
            "if forward() applies softmax or scaling after it, remove that; "
        )
    return f"expected an nn.Linear with the same output as the model, got {reason}{_REMEDY}"
