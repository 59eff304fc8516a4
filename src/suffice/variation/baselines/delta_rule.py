"""Delta rule: the variation to first order, without sampling and without training.

Dropout multiplies each unit h_i by a factor g_i of mean 1 and variance p/(1 − p). With f the probability of the top
class, the logit of a binary question, the probability of one of several labels or the prediction of a regression, to
first order about g = 1

    Var[f]  =  Σ_i (∂f/∂g_i)² · p_i/(1 − p_i),        ∂f/∂g_i = h_i · ∂f/∂h_i

Where whole channels are dropped, i is a channel, and its derivative is the sum over its positions. The rule is exact if
f is linear in the factors and each unit is dropped once. It takes one forward and one backward pass.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from suffice.inputs import prepare
from suffice.network import State, batch_size
from suffice.twin import inference
from suffice.utils.modes import default_modes
from suffice.variation.teachers import sites
from suffice.variation.teachers.spreads import LikelihoodName, check_likelihood, finite_outputs


@default_modes()
def delta_rule(
    model: nn.Module,
    x: State,
    at: str | Sequence[str] | None = None,
    rate: float | None = None,
    likelihood: LikelihoodName = "classification",
) -> Tensor:
    """Return the spread "std" (N,) float64 under dropout, to first order.

    Args:
        model: Model with outputs as for `MCDropout`. It runs in evaluation mode; its modes and gradients do not change.
        x: N examples, batch first.
        at: Names or patterns of the modules that drop, as for `MCDropout`.
        rate: Probability of dropping a unit; None for the rate of each dropout module.
        likelihood: Meaning of the model's output. With several outputs the result is the root of their mean variance,
            at the cost of a backward pass for each.

    Raises:
        ValueError: As `MCDropout` does for the model, the names and the rate; also if the output depends on no
            dropped unit, or attention is among the sites.
    """
    check_likelihood(likelihood)
    if rate is not None:
        sites.check_rate(rate)
    x = prepare(x, model)
    rows = batch_size(x)
    gates: list[tuple[float, Tensor]] = []

    def gate(site_rate: float, units: Tensor) -> Tensor:
        if len(units) != rows:
            raise ValueError(
                f"expected one row of units for each of {rows} examples, got {len(units)}; the rule cannot assign "
                "rows of units to examples: choose modules that put the examples first"
            )
        factors = torch.ones_like(units, requires_grad=True)
        gates.append((site_rate, factors))
        return factors

    with inference(model) as model:
        chosen = sites.find(model, x, rate, at)
        with torch.enable_grad():
            output = sites.run(model, x, chosen, rows, gate, sites.refuse_attention)
            outputs = finite_outputs(output, likelihood).double()
            values = _values(outputs, likelihood)
            variances = [_variance(value.sum(), gates) for value in values.unbind(dim=1)]
    if all(variance is None for variance in variances):
        raise ValueError(
            f"expected a model whose output depends on the output of {chosen.names}, got one that does not depend on "
            "it; choose modules on the way to the output"
        )
    zero = outputs.new_zeros(rows)
    return torch.stack([zero if variance is None else variance for variance in variances]).mean(dim=0).sqrt()


def _values(outputs: Tensor, likelihood: LikelihoodName) -> Tensor:
    """Return the values (N, D) whose spread is "std" of outputs (N, C)."""
    if likelihood == "classification":
        return outputs.softmax(dim=-1).amax(dim=-1, keepdim=True)
    return outputs.sigmoid() if likelihood == "multilabel" else outputs


def _variance(total: Tensor, gates: Sequence[tuple[float, Tensor]]) -> Tensor | None:
    """Return the variance (N,) of each term of a sum over examples, or None if it depends on no gate."""
    slopes = torch.autograd.grad(total, [factors for _, factors in gates], allow_unused=True, retain_graph=True)
    parts = [
        slope.double().square().reshape(len(slope), -1).sum(dim=1) * rate / (1 - rate)
        for (rate, _), slope in zip(gates, slopes, strict=True)
        if slope is not None
    ]
    return torch.stack(parts).sum(dim=0) if parts else None
