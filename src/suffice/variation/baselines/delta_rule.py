"""The variation without sampling and without training: the delta rule.

Dropout multiplies each unit h_i by a factor g_i of mean 1 and variance p/(1 − p). With f the probability of the
class ranked top, the logit of a binary answer or the prediction of a regression, to first order about g = 1

    Var[f]  =  Σ_i (∂f/∂g_i)² · p_i/(1 − p_i),        ∂f/∂g_i = h_i · ∂f/∂h_i

where whole channels are dropped, i is a channel and its derivative is the sum over its positions. Exact where f
is linear in the factors and each is dropped once; it takes one forward and one backward pass.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from suffice.network import State, batch_size
from suffice.twin import inference
from suffice.utils.modes import default_modes
from suffice.variation.teachers import sites
from suffice.variation.teachers.spreads import LikelihoodName, check_likelihood, outputs


@default_modes()
def delta_rule(
    model: nn.Module,
    x: State,
    at: str | Sequence[str] | None = None,
    rate: float | None = None,
    likelihood: LikelihoodName = "classification",
) -> Tensor:
    """The spread "std" (N,) float64 under dropout, to first order.

    Args:
        model: answers as for `MCDropout`; it runs in evaluation mode, and neither its modes nor its gradients
            change.
        x: N examples, on the model's device.
        at: names or patterns of the modules that drop, as for `MCDropout`.
        rate: chance of a unit to be dropped; None takes each dropout's own.
        likelihood: what the output is. With several outputs the mean of their variances counts, at the cost of a
            backward pass for each.

    Raises:
        ValueError: as `MCDropout` does for the model, the names and the rate; also if the answer depends on
            no unit that is dropped, or dropout is inside attention.
    """
    check_likelihood(likelihood)
    if rate is not None:
        sites.check_rate(rate)
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

    with inference(model) as model:
        chosen = sites.find(model, x, rate, at)
        with torch.enable_grad():
            found = outputs(sites.run(model, x, chosen, rows, gate, sites.refuse_attention), likelihood).double()
            values = found.softmax(dim=-1).amax(dim=-1, keepdim=True) if likelihood == "classification" else found
            variances = [_variance(value.sum(), gates) for value in values.unbind(dim=1)]
    if all(variance is None for variance in variances):
        raise ValueError(
            f"expected an answer that depends on the output of {chosen.names}, got one that depends on none; choose "
            "modules on the way to the answer"
        )
    zero = found.new_zeros(rows)
    return torch.stack([zero if variance is None else variance for variance in variances]).mean(dim=0).sqrt()


def _variance(total: Tensor, gates: Sequence[tuple[float, Tensor]]) -> Tensor | None:
    """Variance (N,) of the terms of a total over examples, None if it depends on no gate."""
    slopes = torch.autograd.grad(total, [factor for _, factor in gates], allow_unused=True, retain_graph=True)
    parts = [
        slope.double().square().reshape(len(slope), -1).sum(dim=1) * rate / (1 - rate)
        for (rate, _), slope in zip(gates, slopes, strict=True)
        if slope is not None
    ]
    return torch.stack(parts).sum(dim=0) if parts else None
