"""Any trained classifier as it is: a network of one stage and one exit, found by watching one pass.

    stage     the model up to the input of its last linear layer: x → φ (N, D)
    exit      that layer: logits = W φ + b, (N, C)

The classifier is the linear layer whose output is the model's answer. The stage stops the model where that layer
is reached, by an exception: letting the model finish would compute the classifier twice, and count it twice
in every cost. Weights are shared with the model, and nothing is left on it.
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
from suffice.network import Exit, ExitNetwork, State, call, check_finite, output_tensor, select
from suffice.storage.fingerprint import check_fingerprint
from suffice.storage.parts import Parts
from suffice.storage.structure import check_structure, structure_of
from suffice.twin import Twin, inference, is_twin

_REMEDY = (
    "let the model return the logits of an nn.Linear that takes (N, D), "
    "or cut it yourself: suffice.ExitNetwork([stage], [suffice.Exit(features, classifier)])"
)


class UpToClassifier(nn.Module):
    """A model up to the input of its classifier.

    Args:
        model: the whole model; a mapping of inputs becomes its keyword arguments.
        classifier: name of a module in the model, which a pass reaches once.
    """

    def __init__(self, model: nn.Module, classifier: str) -> None:
        super().__init__()
        self.model = model
        self.classifier = classifier

    def forward(self, inputs: State) -> Tensor:
        """φ (N, D) of a batch.

        Raises:
            RuntimeError: if the classifier was not reached.
        """
        return up_to(self.model, self.classifier, lambda model: call(model, inputs))


def as_exit_network(model: nn.Module, example: State) -> ExitNetwork:
    """A trained classifier as a network of one stage and one exit; an `ExitNetwork` is returned as it is.

    Args:
        model: run once in evaluation mode, as a twin (`suffice.twin`). Its answer (N, C), or (N,) where C = 1, is its
            output, the `.logits` of its output, or the first of a tuple.
        example: a batch of inputs on the model's device, best of two examples or more.

    Raises:
        TypeError: if the answer is not a tensor.
        ValueError: if no linear layer makes the answer, by itself, from features (N, D), or answers are not finite.
    """
    if isinstance(model, ExitNetwork):
        return model
    runs: list[_Run] = []
    with inference(model) as twin:
        linear = [(name, module) for name, module in twin.named_modules() if isinstance(module, nn.Linear)]
        names = {module: name for name, module in linear if is_twin(module)}  # others are compiled
        with _before(names, lambda layer, phi: runs.append(_Run(names[layer], layer, phi))):
            logits = output_tensor(call(twin, example))
        check_finite(logits, "logits")
        makers = [run for run in runs if run.makes(logits)]
        if not makers:
            raise ValueError(_why_none(model, runs, logits))
        _check_alone(twin, makers[-1], runs)
    return at_classifier(model, makers[-1].name)


def at_classifier(model: nn.Module, name: str) -> ExitNetwork:
    """The same where the classifier's name is known.

    Raises:
        ValueError: if the model has no linear layer of that name.
    """
    layer = dict(model.named_modules()).get(name)
    if not isinstance(layer, nn.Linear):
        raise ValueError(
            f"expected a model with an nn.Linear at {name!r}, got {type(model).__name__} with "
            f"{'nothing' if layer is None else type(layer).__name__} there; pass the model that was used then"
        )
    network = ExitNetwork([UpToClassifier(model, name)], [Exit(nn.Identity(), layer)])
    for module in network.modules():
        if module is model:
            break
        module.training = model.training
    return network


def from_loader(model: nn.Module, loader: Loader) -> tuple[ExitNetwork, Loader]:
    """The network of a model, and the loader, from which nothing is lost; read it once.

    A plain model is watched on the first two examples, so that a shape with N in it is not taken for one with 1.

    Raises:
        TypeError: if `model` is not a module.
        ValueError: as `as_exit_network`, and for an empty loader.
    """
    if isinstance(model, ExitNetwork):
        return model, loader
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a classifier, an nn.Module or a suffice.ExitNetwork, got {type(model).__name__}")
    first, loader = batches.peek(loader, model)
    return as_exit_network(model, select(first.inputs, torch.arange(min(2, first.size)))), loader


def described(network: ExitNetwork) -> dict[str, str]:
    """What an artifact keeps so that `restored` can find the network again: a plain model's classifier."""
    stage = network.stages[0]
    return {"classifier": stage.classifier} if isinstance(stage, UpToClassifier) else {}


def restored(network: nn.Module | None, parts: Parts) -> tuple[ExitNetwork, str]:
    """The network that an artifact was made from, itself or the plain model, and the hash of its weights.

    Args:
        network: what was given to `load`.
        parts: of the artifact, with what `described` said, the `network_hash` and the `structure`.

    Raises:
        TypeError: if the network is missing or is not an `ExitNetwork` where that was calibrated.
        ValueError: if its weights, or modules of torch's in it, are others, or it was cut at another classifier.
    """
    stated = {"classifier": parts.text("classifier")} if "classifier" in parts else {}
    network_hash, found = parts.digest("network_hash"), as_described(network, stated)
    if described(found) != stated:
        parts.refuse("classifier", f"that of the network, {described(found) or 'none'}", stated or "none")
    check_fingerprint(found, network_hash)
    check_structure(found, structure_of(parts))
    return found, network_hash


def as_described(network: nn.Module | None, configuration: Mapping[str, Any]) -> ExitNetwork:
    """A network as it is, or a plain model cut where `described` said, its weights unchecked.

    Raises:
        TypeError: if the network is missing or is not an `ExitNetwork` where that was described.
        ValueError: if the plain model has no such classifier.
    """
    if isinstance(network, nn.Module) and not isinstance(network, ExitNetwork) and "classifier" in configuration:
        network = at_classifier(network, configuration["classifier"])
    if not isinstance(network, ExitNetwork):
        wanted = "model" if "classifier" in configuration else "ExitNetwork"
        raise TypeError(
            f"expected the {wanted} that was calibrated, got {type(network).__name__}; pass it as network=…"
        )
    return network


def up_to(model: nn.Module, classifier: str, run: Callable[[nn.Module], object]) -> Tensor:
    """The input φ of a model's classifier in a pass, which is stopped there.

    The model itself runs only where it is trained, which writes into its buffers and attributes.

    Args:
        model: whose pass it is.
        classifier: name of a module of it.
        run: a pass of a model, or of its twin.

    Raises:
        RuntimeError: if the classifier was not reached.
    """
    if not (is_twin(model) or model.training or torch.compiler.is_compiling()):
        with Twin(model, evaluation=False).running() as twin:
            return up_to(twin, classifier, run)
    try:
        with _before([model.get_submodule(classifier)], _stop):
            run(model)
    except _Reached as reached:
        return reached.phi
    raise RuntimeError(f"expected a pass to reach the classifier {classifier!r}, got one that did not")


class _Reached(BaseException):
    """The classifier was reached; not an Exception, which a model might catch."""

    def __init__(self, phi: Tensor) -> None:
        self.phi = phi


@dataclass(frozen=True)
class _Run:
    """One run of a linear layer in a pass: its name and its input φ."""

    name: str
    layer: nn.Linear
    phi: Tensor

    def __str__(self) -> str:
        return f"{self.name!r} ({self.layer.in_features} → {self.layer.out_features})"

    def makes(self, answer: Tensor) -> bool:
        """Whether W φ + b, to rounding, is the answer."""
        if self.phi.ndim != 2 or self.phi.dtype != self.layer.weight.dtype:
            return False
        logits = functional.linear(self.phi, self.layer.weight, self.layer.bias)
        if answer.ndim == 1 and self.layer.out_features == 1:  # a single output, squeezed
            answer = answer[:, None]
        if answer.shape != logits.shape:
            return False
        tolerance = torch.finfo(logits.dtype).eps ** 0.75 * logits.abs().max()
        return bool((logits - answer).abs().max() <= tolerance)


def _stop(_layer: nn.Module, phi: Tensor) -> None:
    raise _Reached(phi)


@contextmanager
def _before(layers: Iterable[nn.Module], hook: Callable[[Any, Tensor], None]) -> Iterator[None]:
    """Call `hook(layer, input)` before one of `layers` runs, and before its own hooks; removed whatever happens."""
    here = get_ident()

    def watch(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if get_ident() == here:  # another thread may run the same model, and is not to be stopped
            hook(layer, args[0] if args else kwargs["input"])

    handles: list[RemovableHandle] = []
    try:
        handles.extend(layer.register_forward_pre_hook(watch, prepend=True, with_kwargs=True) for layer in layers)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check_alone(model: nn.Module, classifier: _Run, runs: Iterable[_Run]) -> None:
    """Raise a ValueError if the classifier's weight does anything else: φ would depend on it."""
    layer = classifier.layer
    times = sum(run.layer is layer for run in runs)
    owners = [
        name
        for name, module in model.named_modules()
        if any(parameter is layer.weight for parameter in module.parameters(recurse=False))
    ]
    if times > 1 or len(owners) > 1:
        found = f"it run {times} times" if times > 1 else f"its weight shared by {owners}"
        raise ValueError(
            f"expected the classifier {classifier} to be used once in a pass, got {found}; use a layer of its own"
        )


def _why_none(model: nn.Module, runs: list[_Run], logits: Tensor) -> str:
    """Why no linear layer makes the answer."""
    if not runs:
        found = (
            f"{type(model).__name__}, in which none ran; pass the model itself, not a compiled or scripted one, and "
        )
    elif runs[-1].phi.ndim != 2:
        found = f"{runs[-1]} as the last, with an input of shape {tuple(runs[-1].phi.shape)}, not (N, D); "
    elif runs[-1].phi.dtype != runs[-1].layer.weight.dtype:
        found = f"{runs[-1]} as the last, which takes {runs[-1].phi.dtype} to {runs[-1].layer.weight.dtype} weights; "
    else:
        found = (
            f"an answer of shape {tuple(logits.shape)} that is not the output of {runs[-1]}, the last "
            "(softmax? scaling?); "
        )
    return f"expected an nn.Linear whose output is the model's answer, got {found}{_REMEDY}"
