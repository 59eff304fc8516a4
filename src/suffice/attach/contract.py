"""The contract of stages and exits that lets examples leave the batch: each example is processed independently.

    stage(select(state, i)) = select(stage(state), i),   and the same for an exit's features

A stage that writes into its state, folds the batch, or mixes examples violates it. The check runs the network on three
examples before anything is fitted.
"""

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor

from suffice.network import ExitNetwork, State, batch_size, select
from suffice.twin import inference
from suffice.utils.nest import tree_flatten, tree_leaves

_EXAMPLES = 3
_REMAINING = torch.tensor([2, 0]), torch.tensor([1])
"""Examples that stay in the batch: some, and a single one, where a dimension of 1 may be confused with others."""


def check(network: ExitNetwork, x: State) -> None:
    """Check every stage and exit in evaluation mode on the first three examples of a batch, repeated if it is smaller.

    Raises:
        ValueError: If a stage or an exit writes into its input state, changes the number of examples, or returns
            another output for an example after others have left the batch.
    """
    state = select(x, torch.arange(_EXAMPLES) % batch_size(x))
    with inference(network) as network:
        for k, stage in enumerate(network.stages):
            state = _check_module(stage, state, f"stage {k}", "state")
            _check_module(network.exit(k).features, state, f"exit {k}", "features")


def run_and_detect_write(function: Any, state: State) -> tuple[State, bool]:
    """Apply a function to a state.

    Returns:
        The result, and whether the function wrote into a tensor of the state.
    """
    before = [leaf._version for leaf in _tensors(state)]
    result = function(state)
    return result, [leaf._version for leaf in _tensors(state)] != before


def _check_module(function: Any, state: State, name: str, output: str) -> State:
    remaining = [select(state, index) for index in _REMAINING]
    result, wrote = run_and_detect_write(function, state)
    if wrote:
        raise ValueError(
            f"expected {name} to leave its input state unchanged, got an in-place write; use operations that are not "
            "in place (inplace=False), or copy the state first"
        )
    _check_containers(result, name, output)
    for leaf in _tensors(result):
        if leaf.shape[:1] != (_EXAMPLES,):
            raise ValueError(
                f"expected {name} to keep the {_EXAMPLES} examples first in its {output}, got a tensor of shape "
                f"{tuple(leaf.shape)}; keep only tensors with one entry per example in the state"
            )
    for index, part in zip(_REMAINING, remaining, strict=True):
        if same_up_to_rounding(select(result, index), function(part)):
            continue
        raise ValueError(
            f"expected {name} to process each example independently, got {output} that changes when other examples "
            "leave the batch; look for squeeze() or reshape with a fixed number of rows, for values computed from the "
            "whole batch (a mean, a maximum, normalization without running statistics), for random numbers, for a "
            "number of examples stored in the state, and for tensors in the state that share memory and are written "
            "into"
        )
    return result


def _check_containers(result: State, name: str, output: str) -> None:
    """Raise a ValueError for a container in which `select` finds no tensors."""
    for leaf in tree_leaves(result):
        fields = dict(vars(leaf)) if is_dataclass(leaf) else leaf
        if isinstance(fields, Mapping) and any(isinstance(value, Tensor) for value in tree_leaves(dict(fields))):
            raise ValueError(
                f"expected {name} to return its {output} in dicts, lists and tuples, got {type(leaf).__name__}, of "
                "which examples cannot be selected; return dict(…) of it"
            )


def _tensors(state: State) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]


def same_up_to_rounding(expected: State, got: State) -> bool:
    """Return whether two states have one structure and are equal up to rounding, which depends on the batch size."""
    (expected_leaves, expected_structure), (leaves, structure) = tree_flatten(expected), tree_flatten(got)
    return expected_structure == structure and all(map(_close, expected_leaves, leaves))


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
