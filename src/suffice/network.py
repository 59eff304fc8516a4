"""Networks that can answer early: stages, and an exit after each.

A stage maps state to state. An exit maps a state to features φ and, by a linear classifier, to logits.
Everything else in the library needs only this: `ExitNetwork.advance`, the exits' classifiers, and a hash of
the weights that ties what was learned about a network to that network.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from suffice.utils.nest import tree_leaves, tree_map, tree_map_only

State = Any
"""What flows between stages: a tensor or a nest (dict, list, tuple) of tensors, batch first."""


class Exit(nn.Module):
    """A point where the network can answer.

    Args:
        features: maps a state to φ, (N, D).
        classifier: maps φ to logits, (N, C).
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
        """Logits (N, C) of a state."""
        logits: Tensor = self.classifier(self.features(state))
        return logits


class ExitNetwork(nn.Module):
    """Stages in a row with an exit after each; a plain classifier is a network of one stage and one exit.

    Args:
        stages: K modules, state in and state out; the first takes the network's input.
        exits: K exits, one after each stage, all with the same number of classes.

    Raises:
        ValueError: if the numbers of stages and exits differ, or the exits disagree on the classes.
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
        """C, the number of classes that every exit answers for."""
        return self.exit(0).classifier.out_features

    def exit(self, k: int) -> Exit:
        """Exit k, counted from 0."""
        exit_ = self.exits[k]
        assert isinstance(exit_, Exit)
        return exit_

    def advance(self, k: int, state: State) -> tuple[State, Tensor]:
        """Run stage k; returns the new state and the exit's features φ (N, D)."""
        state = self.stages[k](state)
        phi: Tensor = self.exit(k).features(state)
        return state, phi

    def forward(self, x: State) -> list[Tensor]:
        """Logits (N, C) of every exit, first to last."""
        answers = []
        state = x
        for k in range(len(self.exits)):
            state, phi = self.advance(k, state)
            answers.append(self.exit(k).classifier(phi))
        return answers


def call(model: nn.Module, x: State) -> Any:
    """The output of a model for a batch; a mapping becomes the keyword arguments of a plain model."""
    return model(**x) if isinstance(x, Mapping) and not isinstance(model, ExitNetwork) else model(x)


def output_tensor(output: Any) -> Tensor:
    """What a model answers with: its output, the `.logits` of it, the first of a tuple, the last of a list of exits.

    Raises:
        TypeError: if that is not a tensor.
    """
    found = getattr(output, "logits", output)
    if isinstance(found, (tuple, list)) and found:
        found = found[-1] if isinstance(found, list) else found[0]
    if not isinstance(found, Tensor):
        raise TypeError(
            "expected logits, an output with .logits, a tuple that begins with them or a list of them, one for each "
            f"exit, got {type(output).__name__}; wrap the model so that it returns its logits"
        )
    return found


def batch_size(x: State) -> int:
    """Examples in a nest of batch-first tensors."""
    leaves = [leaf for leaf in tree_leaves(x) if isinstance(leaf, Tensor)]
    if not leaves or not leaves[0].ndim:
        found = "a single number" if leaves else type(x).__name__
        raise TypeError(f"expected a tensor or a nest of tensors, batch first, got {found}; pass one row an example")
    return len(leaves[0])


def select(state: State, index: Tensor) -> State:
    """The examples `index` (M,) of every tensor in a state."""
    return tree_map_only(Tensor, lambda tensor: tensor.index_select(0, index.to(tensor.device)), state)


def join(states: Sequence[State]) -> State:
    """Batches of states made one, the reverse of `select`."""
    if len(states) == 1:
        return states[0]
    return tree_map(lambda *leaves: torch.cat(leaves) if isinstance(leaves[0], Tensor) else leaves[0], *states)


def check_finite(values: Tensor, what: str, start: int = 0, positions: Tensor | None = None) -> None:
    """Raise a ValueError that names the first example of `values` (N, …) with a NaN or an infinity.

    Args:
        values: one row an example.
        what: what the values are, for the message.
        start: position of the first row in the whole pass.
        positions: (N,), positions of all rows where they are not in a row; rows at −1 are no example's.
    """
    if not values.is_floating_point() or math.isfinite(float(values.sum())):
        return  # one number that is not finite makes the sum so
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
    """Device and floating type of a model's parameters; CPU and float32 where it has none."""
    for tensor in model.parameters():
        if tensor.is_floating_point():
            return tensor.device, tensor.dtype
    return torch.device("cpu"), torch.float32
