"""Plain trained classifiers as networks of one stage and one exit.

    stage     the model up to the input of its last linear layer: x → φ (N, D)
    exit      that layer: logits = W φ + b, (N, C)

The classifier is the linear layer whose output equals the model's output in one observed pass, with nothing but a
selection behind it (`suffice.attach.behind`). The stage interrupts the model with an exception when that layer is
reached: a complete pass would compute the classifier twice and count it twice in every cost. If the model selects
positions from the output, as decoders do, the stage runs to the end with φ in place of the output, so that φ is
selected. Weights are shared with the model, and no hook stays on it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from suffice import batches
from suffice.attach.classifier import find_classifier
from suffice.attach.interception import Reached, intercepted, pass_through
from suffice.attach.whole import WholePass
from suffice.batches import Loader
from suffice.inputs import prepare
from suffice.network import Exit, ExitNetwork, State, call, output_tensor, select
from suffice.storage.fingerprint import check_fingerprint, check_structure, read_structure
from suffice.storage.parts import Parts
from suffice.twin import Twin, is_twin


class UpToClassifier(nn.Module):
    """Model up to the input of its classifier.

    Args:
        model: Whole model; a mapping of inputs becomes its keyword arguments.
        classifier: Name of a module in the model that runs once in a pass.
        selects: Whether the model selects positions from the classifier's output.
    """

    def __init__(self, model: nn.Module, classifier: str, selects: bool = False) -> None:
        super().__init__()
        self.model = model
        self.classifier = classifier
        self.selects = selects

    def forward(self, inputs: State) -> Tensor:
        """Return the features φ (N, D) of a batch.

        Raises:
            RuntimeError: If the pass does not reach the classifier.
        """
        return classifier_input(self.model, self.classifier, lambda model: call(model, inputs), self.selects)


def as_exit_network(model: nn.Module, example: State) -> ExitNetwork:
    """Convert a trained classifier to a network of one stage and one exit; an `ExitNetwork` is returned unchanged.

    Args:
        model: Classifier, run once in evaluation mode as a twin (`suffice.twin`). Its logits (N, C), or (N,) if C = 1,
            are its output, the `.logits` of its output, or the first entry of a tuple.
        example: Batch of inputs, preferably two examples or more.

    Raises:
        TypeError: If the output is not a tensor.
        ValueError: If the logits are not the output of a single linear layer, or a selection of its positions, or are
            not finite.
    """
    if isinstance(model, ExitNetwork):
        return model
    name, selects = find_classifier(model, prepare(example, model))
    return at_classifier(model, name, selects)


def at_classifier(model: nn.Module, name: str, selects: bool = False) -> ExitNetwork:
    """Convert a trained classifier to a network of one stage and one exit, given the name of its last linear layer.

    Args:
        model: Trained classifier.
        name: Name of its last linear layer.
        selects: Whether the model selects positions from that layer's output.

    Raises:
        ValueError: If the model has no linear layer of that name.
    """
    layer = dict(model.named_modules()).get(name)
    if not isinstance(layer, nn.Linear):
        raise ValueError(
            f"expected a model with an nn.Linear at {name!r}, got {type(model).__name__} with "
            f"{'nothing' if layer is None else type(layer).__name__} there; pass the model that was used before"
        )
    network = ExitNetwork([UpToClassifier(model, name, selects)], [Exit(nn.Identity(), layer)])
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
    """Return the manifest entries that `restore_network` needs: a plain model's classifier, and what is read of it."""
    stage = network.stages[0]
    if not isinstance(stage, UpToClassifier):
        return {}
    return {"classifier": stage.classifier, **({"classifier_output": _SELECTED} if stage.selects else {})}


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
    if "classifier_output" in parts:
        entries["classifier_output"] = parts.choice("classifier_output", (_SELECTED,))
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
        network = at_classifier(network, entries["classifier"], "classifier_output" in entries)
    if not isinstance(network, ExitNetwork):
        kind = "model" if "classifier" in entries else "ExitNetwork"
        raise TypeError(
            f"expected the {kind} that was calibrated, got {type(network).__name__}; pass it as network=…, with the "
            "same exits attached and their weights loaded"
        )
    return network


def classifier_input(
    model: nn.Module, classifier: str, run: Callable[[nn.Module], object], selects: bool = False
) -> Tensor:
    """Run a model up to its classifier, or to its end within `suffice.attach.whole.compared`, and return φ.

    The pass runs on a twin, except in training mode, where it has to update the model's own buffers and attributes.

    Args:
        model: Model to run.
        classifier: Name of the classifier, a module of the model.
        run: Function that runs the pass on the model or its twin, and returns the model's output.
        selects: Whether the model selects positions from the classifier's output; then they are selected from φ.

    Raises:
        RuntimeError: If the pass does not reach the classifier.
        ValueError: If the pass is compared, and returns other logits than the classifier's.
    """
    if not (is_twin(model) or model.training or torch.compiler.is_compiling()):
        with Twin(model, evaluation=False).running() as twin:
            return classifier_input(twin, classifier, run, selects)
    layer, whole = model.get_submodule(classifier), WholePass.wanted(classifier)
    if whole is not None:
        with intercepted({classifier: layer}, whole.handle):
            output = run(model)
        if not selects:
            return whole.features(output)
    if selects:
        with intercepted({classifier: layer}, pass_through):
            selected = output_tensor(run(model))
        if whole is not None:
            assert isinstance(layer, nn.Linear)
            whole.check_selected(selected, layer, output)
        return selected
    try:
        with intercepted({classifier: layer}, _stop):
            run(model)
    except Reached as reached:
        phi: Tensor = reached.output
        return phi
    raise RuntimeError(f"expected a pass to reach the classifier {classifier!r}, got one that did not")


_SELECTED = "selected positions"
"""Entry in a manifest of a model that selects positions from its classifier's output."""


def _stop(name: str, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    raise Reached(pass_through(name, forward, args, kwargs))
