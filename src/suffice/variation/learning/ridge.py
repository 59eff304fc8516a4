"""Log-variance by ridge regression, in closed form: sums that merge, so it fits on a stream.

With inputs x (K,), the constant 1 behind them, and targets y = log s² floored,

    w  =  (Σ xxᵀ/n + λ diag(1, …, 1, 0))⁻¹ Σ xy/n

E[log s²] is below log σ² by what the noise of few passes makes of a logarithm, alike for all rows. So the constant is
moved to where QLIKE is least, b + log mean(s²/v), on rows that were not fitted. λ is chosen there too.
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
    """Sums over rows; float64.

    gram: Σ xxᵀ, (K+1, K+1), x with the constant 1.  moment: Σ xy, (K+1,).  count: rows seen.
    """

    gram: Tensor
    moment: Tensor
    count: int


def init(inputs: int, device: torch.device | None = None) -> Statistics:
    """No rows yet; inputs is K."""
    gram = torch.zeros(inputs + 1, inputs + 1, dtype=torch.float64, device=device)
    return Statistics(gram, gram[0].clone(), 0)


def update(statistics: Statistics, inputs: Tensor, labels: Tensor) -> Statistics:
    """Add rows: inputs (N, K), labels s² (N,) in units of their mean."""
    x = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1).double()
    y = labels.double().clamp_min(_FLOOR).log()
    return merge(statistics, Statistics(x.T @ x, x.T @ y, len(x)))


def merge(a: Statistics, b: Statistics) -> Statistics:
    """The statistics of both."""
    return Statistics(a.gram + b.gram, a.moment + b.moment, a.count + b.count)


def select(statistics: Statistics, columns: Tensor) -> Statistics:
    """The statistics of some of the inputs, (M,) int64, and the constant."""
    kept = torch.cat([columns, columns.new_tensor([len(statistics.moment) - 1])])
    return Statistics(statistics.gram[kept][:, kept], statistics.moment[kept], statistics.count)


def solve(statistics: Statistics, penalty: float) -> list[Tensor]:
    """Weights of a network without hidden layers, matrix (1, K) and bias (1,), float32."""
    penalties = torch.full_like(statistics.moment, penalty)
    penalties[-1] = 0
    system = statistics.gram / statistics.count + penalties.diag()
    w = torch.linalg.lstsq(system, statistics.moment[:, None] / statistics.count, driver="gelsd").solution[:, 0]
    return [w[None, :-1].float(), w[-1:].float()]


def fit(statistics: Statistics, validation: tuple[Tensor, Tensor]) -> list[Tensor]:
    """The weights whose QLIKE on validation inputs (M, K) and labels (M,) is least."""
    inputs, labels = validation
    found = [_centered(solve(statistics, penalty), inputs, labels) for penalty in _LAMBDAS]
    losses = [float(mlp.qlike(mlp.forward(weights, inputs), labels)) for weights in found]
    return found[losses.index(min(losses))]


def _centered(weights: Sequence[Tensor], inputs: Tensor, labels: Tensor) -> list[Tensor]:
    matrix, bias = weights
    ratio = labels / mlp.forward(weights, inputs)[:, 0].exp()
    return [matrix, bias + ratio.mean().log()]
