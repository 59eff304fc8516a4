"""Networks with early exits: a sequence of stages, and an exit after each stage.

A stage maps a state to the next state. An exit maps a state to features φ and, with a linear classifier, to logits.
The rest of the library relies only on `ExitNetwork.advance`, the classifiers of the exits, and a hash of the weights
that ties an artifact to the network that it was fitted on.
"""

import inspect
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from suffice.utils.nest import tree_flatten, tree_leaves, tree_map, tree_map_only

State = Any
"""Value passed between stages: a tensor or a nest (dict, list, tuple) of tensors, batch first."""


class Exit(nn.Module):
    """A point where the network can predict: features and a linear classifier.

    Args:
        features: Module from a state to φ, (N, D).
        classifier: Linear layer from φ to logits, (N, C).

    Raises:
        TypeError: If the classifier is not an `nn.Linear`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import suffice
        >>> early = suffice.Exit(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(16, 10))
        >>> early(torch.zeros(4, 16, 8, 8)).shape
        torch.Size([4, 10])
    """

    def __init__(self, features: nn.Module, classifier: nn.Linear) -> None:
        super().__init__()
        if not isinstance(classifier, nn.Linear):
            raise TypeError(
                f"expected an nn.Linear as an exit's classifier, got {type(classifier).__name__}; "
                "move everything before the last linear layer into features"
            )
        self.features = features
        self.classifier = classifier

    def forward(self, state: State) -> Tensor:
        """Return the logits (N, C) of a state."""
        logits: Tensor = self.classifier(self.features(state))
        return logits


class ExitNetwork(nn.Module):
    """Stages in sequence with an exit after each; a plain classifier has one stage and one exit.

    Args:
        stages: K modules from state to state; the first takes the input of the network.
        exits: K exits, one after each stage, all with the same number of classes.

    Raises:
        ValueError: If the numbers of stages and exits differ, or the exits differ in their number of classes.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import suffice
        >>> stages = [nn.Linear(3, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, 8))]
        >>> network = suffice.ExitNetwork(stages, [suffice.Exit(nn.ReLU(), nn.Linear(8, 4)) for _ in stages])
        >>> [tuple(logits.shape) for logits in network(torch.zeros(5, 3))]
        [(5, 4), (5, 4)]
    """

    def __init__(self, stages: Sequence[nn.Module], exits: Sequence[Exit]) -> None:
        super().__init__()
        if len(stages) != len(exits) or not exits:
            raise ValueError(f"expected one exit after each stage, got {len(stages)} stages and {len(exits)} exits")
        classes = [exit_.classifier.out_features for exit_ in exits]
        if len(set(classes)) > 1:
            raise ValueError(f"expected the same number of classes at every exit, got {classes}")
        self.stages = nn.ModuleList(stages)
        self.exits = nn.ModuleList(exits)

    @property
    def num_classes(self) -> int:
        """Number of classes C, the same at every exit."""
        return self.exit(0).classifier.out_features

    def exit(self, k: int) -> Exit:
        """Return exit k, counted from 0."""
        exit_ = self.exits[k]
        assert isinstance(exit_, Exit)
        return exit_

    def advance(self, k: int, state: State) -> tuple[State, Tensor]:
        """Run stage k.

        Returns:
            The new state and the features φ (N, D) of exit k.
        """
        state = self.stages[k](state)
        phi: Tensor = self.exit(k).features(state)
        return state, phi

    def forward(self, x: State) -> list[Tensor]:
        """Return the logits (N, C) of every exit, first to last."""
        outputs = []
        state = dict(x) if isinstance(x, Mapping) and not isinstance(x, dict) else x
        for k in range(len(self.exits)):
            state, phi = self.advance(k, state)
            outputs.append(self.exit(k).classifier(phi))
        return outputs


def call(model: nn.Module, x: State) -> Any:
    """Return the output of a model for a batch; a plain model receives a mapping as keyword arguments."""
    named = isinstance(x, Mapping) and not isinstance(model, ExitNetwork)
    if torch.compiler.is_compiling():
        return model(**x) if named else model(x)
    try:
        return model(**x) if named else model(x)
    except (TypeError, AttributeError) as error:
        if named:
            _check_names(model, x, error)
        else:
            _check_position(model, x, error)
        raise


def _check_names(model: nn.Module, x: Mapping[str, Any], error: Exception) -> None:
    """Raise a TypeError that names the keys of a mapping if they are not arguments of the model."""
    signature = inspect.signature(model.forward)
    try:
        signature.bind(**x)
    except TypeError as mismatch:
        remedy = "; rename 'label' to 'labels', which is no input" if "label" in x else ""
        names, kind = list(signature.parameters), type(model).__name__
        if len(names) == 1 and names[0] not in x:
            remedy += (
                f"; if {kind}.forward({names[0]}) takes the mapping itself, wrap it in a module whose "
                "forward(self, **inputs) returns self.model(inputs)"
            )
        raise TypeError(
            f"expected inputs with the arguments of {kind}, got the keys {sorted(x)}: {mismatch}{remedy}"
        ) from error


def _check_position(model: nn.Module, x: State, error: Exception) -> None:
    """Raise a TypeError with the cause if inputs that are no mapping are not the only argument of the model."""
    kind = type(model).__name__
    try:
        inspect.signature(model.forward).bind(x)
    except TypeError as mismatch:
        raise TypeError(
            f"expected inputs with the arguments of {kind}, got one value: {mismatch}; pass a mapping of them by name, "
            "as the second entry of a batch (x, y) is read as labels"
        ) from error
    if isinstance(x, (tuple, list)) and type(x).__name__ in str(error):
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in tree_leaves(x) if isinstance(leaf, Tensor))
        raise TypeError(
            f"expected inputs that {kind} takes, got a {type(x).__name__} of {len(x)} with tensors of shape {shapes}: "
            f"{error}; pass x alone, if this is a pair (x, y) of inputs and labels, or a mapping of inputs by name"
        ) from error


def output_tensor(output: Any) -> Tensor:
    """Return the logits in the output of a model.

    These are the output itself, its `.logits` (or `.prediction_logits` or `.prediction_outputs`, as time series models
    have), the first entry of a tuple, or the last entry of a list of exits.

    Raises:
        TypeError: If the selected value is not a tensor.
    """
    names = ("logits", "prediction_logits", "prediction_outputs")
    logits = next((getattr(output, name) for name in names if hasattr(output, name)), output)
    if isinstance(logits, (tuple, list)) and logits:
        logits = logits[-1] if isinstance(logits, list) else logits[0]
    if not isinstance(logits, Tensor):
        raise TypeError(
            "expected logits, an output with .logits, a tuple that starts with logits or a list with logits for each "
            f"exit, got {type(output).__name__}; wrap the model so that it returns its logits"
        )
    return logits


def batch_size(x: State) -> int:
    """Return the number of examples in a nest of batch-first tensors."""
    leaves = [leaf for leaf in tree_leaves(x) if isinstance(leaf, Tensor)]
    if not leaves or not leaves[0].ndim:
        kind = "a single number" if leaves else type(x).__name__
        raise TypeError(f"expected a tensor or a nest of tensors, batch first, got {kind}; pass one row per example")
    return leaves[0].size(0)  # len() would make it a constant of a trace


def select(state: State, index: Tensor) -> State:
    """Select the examples `index` (M,) from every tensor in a state."""
    return tree_map_only(Tensor, lambda tensor: tensor.index_select(0, index.to(tensor.device)), state)


def join(states: Sequence[State]) -> State:
    """Concatenate states along the batch dimension, the inverse of `select`."""
    if len(states) == 1:
        return states[0]
    return tree_map(lambda *leaves: torch.cat(leaves) if isinstance(leaves[0], Tensor) else leaves[0], *states)


def signature(state: State) -> Hashable:
    """Return what states have in common that `join` can concatenate: all that does not depend on their examples.

    These are the structure of the nest with its keys, the shape of each tensor without the batch dimension, its type
    and device, and the plain values. A plain value without a hash equals no other.
    """
    if isinstance(state, Tensor):
        return _leaf_signature(state)
    leaves, structure = tree_flatten(state)
    return repr(structure), tuple(map(_leaf_signature, leaves))


def _leaf_signature(leaf: object) -> Hashable:
    if isinstance(leaf, Tensor):
        return leaf.shape[1:], leaf.dtype, leaf.device
    try:
        hash(leaf)
    except TypeError:
        return object()
    return type(leaf), leaf


def check_finite(values: Tensor, what: str, start: int = 0, positions: Tensor | None = None) -> None:
    """Raise a ValueError that names the first example of `values` (N, …) with a NaN or an infinity.

    Args:
        values: Tensor with one row per example.
        what: Name of the values in the message.
        start: Position of the first row in the whole pass.
        positions: Positions (N,) of the rows in the whole pass where they are not consecutive; rows at −1 hold no
            example and are not checked.

    Raises:
        ValueError: If a value is not finite.
    """
    if not values.is_floating_point() or math.isfinite(float(values.sum())):
        return  # a value that is not finite would make the sum so
    if bool(torch.isfinite(values).all()):
        return
    bad = ~torch.isfinite(values).flatten(start_dim=1).all(dim=1) if values.ndim > 1 else ~values.isfinite()
    if positions is None:
        positions = torch.arange(start, start + len(values), device=values.device)
    bad_positions, present = positions[bad & (positions >= 0)], int((positions >= 0).sum())
    if not len(bad_positions):
        return
    remedy = "remove or repair those examples"
    if values.dtype == torch.float16:
        remedy += ", or run the network in bfloat16 or float32: float16 ends at 65504"
    raise ValueError(
        f"expected finite {what}, got NaN or infinity at position {int(bad_positions.min())} "
        f"({len(bad_positions)} of {present} examples in its batch); {remedy}"
    )


def placement(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Return the device and the floating type of a model's parameters; CPU and float32 if it has none."""
    for tensor in model.parameters():
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.float32
