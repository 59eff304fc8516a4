"""Ridge regression of the log-variance, in closed form, from sums that merge, so that it fits on a stream.

With inputs x (K,), followed by the constant 1, and targets y = log s² with a floor,

    w  =  (Σ xxᵀ/n + λ diag(1, …, 1, 0))⁻¹ Σ xy/n

The noise of few passes makes E[log s²] less than log σ², by about the same for all rows. So the constant is then moved
to the minimum of QLIKE, b + log mean(s²/v), on rows that were not fitted. λ is chosen on the same rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from suffice.variation.learning import mlp

_FLOOR = 1e-2
_LAMBDAS = tuple(10.0**e for e in range(-6, 2))


@dataclass(frozen=True)
class Statistics:
    """Sums over rows, in float64.

    Attributes:
        gram: Σ xxᵀ, (K+1, K+1), x with the constant 1.
        moment: Σ xy, (K+1,).
        count: Number of rows.
    """

    gram: Tensor
    moment: Tensor
    count: int


def init(inputs: int, device: torch.device | None = None) -> Statistics:
    """Return the statistics of no rows with K = `inputs` inputs."""
    gram = torch.zeros(inputs + 1, inputs + 1, dtype=torch.float64, device=device)
    return Statistics(gram, gram[0].clone(), 0)


def update(statistics: Statistics, inputs: Tensor, labels: Tensor) -> Statistics:
    """Add rows with inputs (N, K) and labels s² (N,) in units of their mean."""
    x = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1).double()
    y = labels.double().clamp_min(_FLOOR).log()
    return merge(statistics, Statistics(x.T @ x, x.T @ y, len(x)))


def merge(a: Statistics, b: Statistics) -> Statistics:
    """Return the statistics of the rows of both."""
    return Statistics(a.gram + b.gram, a.moment + b.moment, a.count + b.count)


def select(statistics: Statistics, columns: Tensor) -> Statistics:
    """Return the statistics of the inputs `columns` (M,) int64 and the constant."""
    index = torch.cat([columns, columns.new_tensor([len(statistics.moment) - 1])])
    return Statistics(statistics.gram[index][:, index], statistics.moment[index], statistics.count)


def solve(statistics: Statistics, penalty: float) -> list[Tensor]:
    """Return the weights of a network without hidden layers, matrix (1, K) and bias (1,), float32."""
    penalties = torch.full_like(statistics.moment, penalty)
    penalties[-1] = 0
    system = statistics.gram / statistics.count + penalties.diag()
    w = torch.linalg.lstsq(system, statistics.moment[:, None] / statistics.count, driver="gelsd").solution[:, 0]
    return [w[None, :-1].float(), w[-1:].float()]


def fit(statistics: Statistics, validation: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Return the weights with the least QLIKE on validation inputs (M, K) and labels (M,)."""
    inputs, labels = validation
    candidates = [_recenter(solve(statistics, penalty), inputs, labels) for penalty in _LAMBDAS]
    losses = [float(mlp.qlike(mlp.forward(weights, inputs), labels)) for weights in candidates]
    return candidates[losses.index(min(losses))]


def _recenter(weights: Sequence[Tensor], inputs: Tensor, labels: Tensor) -> list[Tensor]:
    """Move the bias to the minimum of QLIKE."""
    matrix, bias = weights
    ratio = labels / mlp.forward(weights, inputs)[:, 0].exp()
    return [matrix, bias + ratio.mean().log()]
