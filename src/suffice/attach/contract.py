"""What stages and exits have to keep so that examples can leave the batch: each example goes its own way.

    stage(select(state, i)) = select(stage(state), i),   and the same for an exit's features

A stage that writes into its state, folds the batch, or lets examples see each other breaks it. Found by trying, on
three examples, before anything is learned about the network.
"""

from typing import Any

import torch
from torch import Tensor

from suffice.network import ExitNetwork, State, batch_size, select
from suffice.twin import inference
from suffice.utils.nest import tree_flatten, tree_leaves

_EXAMPLES = 3
_KEPT = torch.tensor([2, 0])


def check(network: ExitNetwork, x: State) -> None:
    """Try every stage and exit, in evaluation mode, on the first three examples of a batch (one is repeated).

    Raises:
        ValueError: if a stage or an exit writes into the state that it is given, changes the number of examples,
            or answers differently when other examples have left.
    """
    state = select(x, torch.arange(_EXAMPLES) % batch_size(x))
    with inference(network) as network:
        for k, stage in enumerate(network.stages):
            state = _try(stage, state, f"stage {k}", "state")
            _try(network.exit(k).features, state, f"exit {k}", "features")


def writes(function: Any, state: State) -> tuple[State, bool]:
    """What a function makes of a state, and whether it wrote into it."""
    before = [leaf._version for leaf in _tensors(state)]
    result = function(state)
    return result, [leaf._version for leaf in _tensors(state)] != before


def _try(function: Any, state: State, who: str, what: str) -> State:
    kept = select(state, _KEPT)
    result, wrote = writes(function, state)
    if wrote:
        raise ValueError(
            f"expected {who} to leave the state that it is given as it is, got one that writes into it; use "
            "operations that are not in place (inplace=False), or give it a copy"
        )
    for leaf in _tensors(result):
        if leaf.shape[:1] != (_EXAMPLES,):
            raise ValueError(
                f"expected {who} to keep the {_EXAMPLES} examples first in its {what}, got a tensor of shape "
                f"{tuple(leaf.shape)}; put into the state only what belongs to each example"
            )
    if not _same(select(result, _KEPT), function(kept)):
        raise ValueError(
            f"expected {who} to take each example by itself, got {what} that change when others leave the batch; "
            "look for batch statistics, for a number of examples kept in the state, and for tensors in the state "
            "that share memory and are written into"
        )
    return result


def _tensors(state: State) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]


def _same(expected: State, got: State) -> bool:
    """Whether two states are of one structure and equal to rounding, which depends on the size of the batch."""
    (ours, structure), (theirs, other) = tree_flatten(expected), tree_flatten(got)
    return structure == other and all(map(_close, ours, theirs))


def _close(a: Any, b: Any) -> bool:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return bool(a == b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    tolerance = torch.finfo(a.dtype).eps ** 0.5
    scale = float(a.nan_to_num(posinf=0, neginf=0).abs().max()) if a.numel() else 0.0
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
