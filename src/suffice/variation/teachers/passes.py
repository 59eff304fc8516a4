"""Dropout passes of a model over a batch, under masks that are drawn beforehand.

Passes are mapped by `torch.vmap`, under which a value stays single until a mask has touched it. Where that fails, the
whole model runs on a batch that is repeated. Both use the same masks.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from suffice.network import State, batch_size, output_tensor
from suffice.utils.nest import tree_map_only
from suffice.variation.teachers import sites
from suffice.variation.teachers.plan import Plan, folds
from suffice.variation.teachers.sites import Sites


def run_passes(model: nn.Module, x: State, chosen: Sites, factors: list[Tensor], count: int, plan: Plan) -> Tensor:
    """Run `count` passes over a batch of N examples.

    Args:
        model: Twin in evaluation mode.
        x: Batch of inputs.
        chosen: Sites of the model.
        factors: Factors (count, rows, …) of each run of a site.
        count: Number of passes.
        plan: Size of the parts. Its `mapped` is set to False if the model cannot be mapped.

    Returns:
        Outputs (count · N, …), pass after pass.

    Raises:
        ValueError: If the passes drop other units than those that the factors are for.
    """
    if plan.mapped:
        try:
            return _map_passes(model, x, chosen, factors)
        except (RuntimeError, ValueError):  # the recorded pass succeeded, so it is the mapping that fails
            plan.mapped = False
    outputs, start = [], 0
    for size in folds(count, plan.repeated):
        fold_factors = [factor[start : start + size].flatten(end_dim=1) for factor in factors]
        outputs.append(output_tensor(_run_masked(model, _repeat(x, size), chosen, fold_factors)))
        start += size
    return torch.cat(outputs)


def _map_passes(model: nn.Module, x: State, chosen: Sites, factors: list[Tensor]) -> Tensor:
    """Map one pass over the first dimension of the factors."""

    def run_pass(*pass_factors: Tensor) -> Tensor:
        return output_tensor(_run_masked(model, x, chosen, list(pass_factors), lambda _: None))

    outputs: Tensor = torch.vmap(run_pass, randomness="different")(*factors)
    return outputs.flatten(end_dim=1)


def _run_masked(
    model: nn.Module,
    x: State,
    chosen: Sites,
    factors: list[Tensor],
    on_in_place: Callable[[Tensor], None] | None = None,
) -> Any:
    """Return the output of one call of the model under given factors, in the order in which the sites run."""
    remaining = list(reversed(factors))

    def gate(_rate: float, units: Tensor) -> Tensor:
        if not remaining or remaining[-1].shape != units.shape:
            raise ValueError(message)
        return remaining.pop()

    message = (
        f"expected the same units to be dropped in every pass, got other ones at {chosen.names}; choose modules that "
        "run the same way whatever the values and the size of the batch"
    )
    output = sites.run(model, x, chosen, batch_size(x), gate, lambda rate: rate, on_in_place)
    if remaining:
        raise ValueError(message)
    return output


def _repeat(x: State, times: int) -> State:
    """Return a batch of `times` copies of x, one after the other."""
    return tree_map_only(Tensor, lambda tensor: tensor.repeat(times, *[1] * (tensor.ndim - 1)), x)
