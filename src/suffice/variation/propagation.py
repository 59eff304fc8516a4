"""The variation without sampling and without training: the delta rule.

Dropout multiplies each unit h_i by a factor g_i of mean 1 and variance p/(1 − p). With f the probability of the
class ranked top, to first order in the factors about g = 1

    Var[f]  =  Σ_i (∂f/∂g_i)² · p_i/(1 − p_i),        ∂f/∂g_i = h_i · ∂f/∂h_i

where whole channels are dropped, i is a channel and its derivative is the sum over its positions. Exact where f
is linear in the factors and each is dropped once; it takes one forward and one backward pass.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from suffice.network import State, batch_size, check_finite, inference
from suffice.variation.dropout import check_rate, find_sites, gated
from suffice.variation.strengths import final_logits


def delta_rule(model: nn.Module, x: State, at: str | Sequence[str] | None = None, rate: float | None = None) -> Tensor:
    """Standard deviation (N,) float64 of the top class's probability under dropout, to first order.

    Args:
        model: a classifier with logits (N, C), or a list of them of which the last counts; it runs in
            evaluation mode, and neither its modes nor its gradients change.
        x: N examples, on the model's device.
        at: names or patterns of the modules that drop, as for `MCDropout`.
        rate: chance of a unit to be dropped; None takes each dropout module's own.

    Raises:
        ValueError: as `MCDropout` does for the model, the names and the rate; also if the answer depends on
            no unit that is dropped.
    """
    if rate is not None:
        check_rate(rate)
    rows = batch_size(x)
    gates: list[tuple[float, Tensor]] = []

    def gate(own_rate: float, units: Tensor) -> Tensor:
        if len(units) != rows:
            raise ValueError(
                f"expected one row of units for each of {rows} examples, got {len(units)}; the rule cannot tell "
                "which rows are whose: choose modules that put the examples first"
            )
        gates.append((own_rate, torch.ones_like(units, requires_grad=True)))
        return gates[-1][1]

    sites = find_sites(model, rate, at)
    with inference(model), torch.enable_grad(), gated(sites, rows, gate):
        logits = final_logits(model(x))
        check_finite(logits.detach(), "logits")
        top = logits.double().softmax(dim=-1).amax(dim=-1)
    slopes = torch.autograd.grad(top.sum(), [factor for _, factor in gates], allow_unused=True)
    variance = torch.zeros(rows, dtype=torch.float64, device=logits.device)
    for (own_rate, _), slope in zip(gates, slopes, strict=True):
        if slope is not None:
            variance += slope.double().square().reshape(rows, -1).sum(dim=1) * own_rate / (1 - own_rate)
    if all(slope is None for slope in slopes):
        raise ValueError(
            f"expected an answer that depends on the output of {[site.name for site in sites]}, got one that "
            "depends on none; choose modules on the way to the last logits"
        )
    return variance.sqrt()
