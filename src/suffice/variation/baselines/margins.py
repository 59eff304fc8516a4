"""Covariance of the margins under dropout in a head of linear layers, in closed form in its activation strengths.

A head computes z_l = W_l (g_l ∘ f_l) + b_l and f_l = a(z_{l+1}), from a deeper layer to the last one, l = 1, with
dropout factors g_l of mean 1 and variance r_l = ρ_l/(1 − ρ_l). The margin of the top class t over a runner-up c is
m_c = z_t − z_c. To first order in the factors, with J_1 = W_t − W_c a row for each of k runners-up,

    J_{l+1} = (J_l ∘ a′(z_{l+1})) W_{l+1},        S = Σ_l r_l (J_l ∘ f_l)(J_l ∘ f_l)ᵀ

The term of l = 1 is exact, deeper ones are where slopes a′ do not change, as of ReLU units that stay on or off. The
spread of the top class's probability is that of 1/(1 + Σ_c exp(−m_c − (Lz)_c)) over fixed points z, with LLᵀ = S. So it
is bounded, unlike that of the delta rule, and no gradient is taken. For logits and predictions J_1 = W_1.

The products with W_l of deeper layers are most of the cost. With the r principal directions U of W_l f (D′, r), W_l can
be approximated by U (UᵀW_l): r(D′ + D) multiply-adds for each margin instead of D′D.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from suffice.variation.teachers.spreads import LikelihoodName

MARGINS = 3
"""Largest number of margins: over two runners-up, and over the rest of the classes together."""
POINTS, LINE_POINTS = 128, 32
"""Number of points of `normal_points` for several margins, and for one."""
SHRINKAGE = 1e-4
"""Share of each correlation that is left out, so that singular covariances have a Cholesky factor without much noise.

With a share s and machine precision ε, rounding of a singular covariance moves its factor by about ε/√s."""


@dataclass(frozen=True)
class Layer:
    """Linear layer of a head in one pass.

    Attributes:
        weight: Weight, (D′, D).
        inputs: Inputs f without dropout, (N, D).
        rate: Dropout rate ρ on the inputs; 0 for none.
        slopes: Slopes a′ at the layer's outputs, (N, D′); None for the last layer, which no activation follows.
        factors: Matrices (D′, r) and (r, D), the product of which is used in place of the weight; None for the weight.
    """

    weight: Tensor
    inputs: Tensor
    rate: float
    slopes: Tensor | None = None
    factors: tuple[Tensor, Tensor] | None = None


def head_spreads(outputs: Tensor, layers: Sequence[Layer], points: Tensor, likelihood: LikelihoodName) -> Tensor:
    """Return the spreads (N, F) of a batch under dropout of a head: "std" as teachers measure it, then others.

    The others are the standard deviations of the k margins in their order, of the probability of a binary question, or
    of each of several outputs or labels' logits.

    Args:
        outputs: Outputs of the model, (N, C).
        layers: Layers of the head, the last one first.
        points: Points in place of standard normals: (P, k) for a classification, else (P, 1).
        likelihood: Meaning of the outputs.
    """
    if likelihood == "classification":
        margins, directions = top_margins(outputs, layers[0].weight, points.shape[1])
        covariance = margin_covariance(directions, layers)
        std = probability_spread(margins, covariance, points)
        return torch.cat([std[:, None], covariance.diagonal(dim1=1, dim2=2).sqrt()], dim=1)
    variance = output_variance(layers)
    if likelihood == "regression":
        std = variance.mean(dim=1, keepdim=True).sqrt()
        return std if variance.shape[1] == 1 else torch.cat([std, variance.sqrt()], dim=1)
    single = probability_spread(outputs.reshape(-1, 1), variance.reshape(-1, 1, 1), points).view_as(outputs)
    if likelihood == "binary":
        return torch.cat([variance.sqrt(), single], dim=1)
    return torch.cat([single.square().mean(dim=1, keepdim=True).sqrt(), variance.sqrt()], dim=1)


def top_margins(logits: Tensor, weight: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return k margins of the top class, and their gradients J_1.

    With more than k other classes, the last margin is that over all classes but the top one and its k − 1 runners-up,
    of which m = −log Σ_c exp(−m_c) and J_1 = W_t − Σ_c q_c W_c, q their softmax.

    Args:
        logits: Logits, (N, C).
        weight: Weight of the last layer, (C, D).
        k: Number of margins, below C.

    Returns:
        Margins (N, k) and gradients (N, k, D).
    """
    ranked, classes = logits.sort(dim=1, descending=True, stable=True)
    below, rows = ranked[:, :1] - ranked[:, 1:], weight[classes[:, : 1 + k]]
    top, runners = rows[:, :1], rows[:, 1:]
    if below.shape[1] == k:
        return below, top - runners
    rest = -torch.logsumexp(-below[:, k - 1 :], dim=1, keepdim=True)
    shares = torch.zeros_like(logits).scatter(1, classes[:, k:], torch.softmax(ranked[:, k:], dim=1))
    runners = torch.cat([runners[:, :-1], (shares @ weight)[:, None]], dim=1)
    return torch.cat([below[:, : k - 1], rest], dim=1), top - runners


def margin_covariance(directions: Tensor, layers: Sequence[Layer]) -> Tensor:
    """Return the covariance S (N, k, k) of margins with the gradients J_1 (N, k, D) at the last layer's inputs."""
    return torch.stack([scaled @ scaled.mT for scaled in _scaled(directions, layers)]).sum(dim=0)


def output_variance(layers: Sequence[Layer]) -> Tensor:
    """Return the variance (N, C) of each output of a head, the diagonal of S for J_1 = W_1."""
    parts = _scaled(layers[0].weight[None], layers)
    return torch.stack([scaled.square().sum(dim=2) for scaled in parts]).sum(dim=0)


def _scaled(directions: Tensor, layers: Sequence[Layer]) -> Iterator[Tensor]:
    """Yield √r_l (J_l ∘ f_l), (N, k, D_l), of each layer with dropout."""
    jacobian = directions
    for layer in layers:
        if layer.slopes is not None:
            jacobian = jacobian * layer.slopes[:, None]
            for matrix in layer.factors or (layer.weight,):
                jacobian = jacobian @ matrix
        if layer.rate:
            yield jacobian * (math.sqrt(layer.rate / (1 - layer.rate)) * layer.inputs[:, None])


def factorize(weight: Tensor, inputs: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return factors U (D′, r) and UᵀW (r, D) of a weight, float32, U the principal directions of W f.

    The second moments of f are those of the inputs without their correlations, which dropout does not have. They are
    averaged with one more row that has the mean of them all, so that no input of a few rows counts for nothing.

    Args:
        weight: Weight W, (D′, D).
        inputs: Inputs f of the layer, (N, D).
        rank: Number r of directions, at most D′ and D.
    """
    squares = inputs.double().square()
    moments = (squares.sum(dim=0) + squares.mean()) / (len(squares) + 1)
    scaled = weight.double() * moments.sqrt()
    directions = torch.linalg.eigh(scaled @ scaled.mT).eigenvectors[:, -rank:]
    return directions.float(), (directions.mT @ weight.double()).float()


def macs(
    shapes: Sequence[tuple[int, int]],
    ranks: Sequence[int | None],
    rates: Sequence[float],
    k: int,
    points: int,
    covariances: bool,
) -> int:
    """Return the multiply-adds per example in matrix products of `head_spreads`.

    Args:
        shapes: Shapes (D′, D) of the weights, the last layer first.
        ranks: Rank of the factors in place of each weight but the first; None for the weight itself.
        rates: Dropout rate at the inputs of each layer.
        k: Number of margins or outputs.
        points: Number P of points; 0 if no probability is computed.
        covariances: Whether covariances are computed, for margins, and not only variances.
    """
    elements = sum(
        rows * columns if rank is None else rank * (rows + columns)
        for (rows, columns), rank in zip(shapes[1:], ranks, strict=True)
    )
    products = k * elements
    if covariances and shapes[0][0] > 1 + k:
        products += shapes[0][0] * shapes[0][1]  # the rest of the classes
    pairs = k * k if covariances else k
    squares = sum(pairs * columns for (_, columns), rate in zip(shapes, rates, strict=True) if rate)
    return products + squares + points * pairs


def probability_spread(margins: Tensor, covariance: Tensor, points: Tensor) -> Tensor:
    """Return the standard deviation (N,) of a probability 1/(1 + Σ_c exp(−m_c)) whose margins are normal.

    It is computed in float64, so that spreads far below p have digits, and from the smaller of p and 1 − p.

    Args:
        margins: Means of the margins, (N, k).
        covariance: Their covariance, (N, k, k).
        points: Points of equal weight in place of standard normals, (P, k), from `normal_points`.
    """
    moved = margins.double()[:, :, None] + cholesky(covariance) @ points.mT  # (N, k, P): the sums are over rows
    smallest = moved.amin(dim=1, keepdim=True)
    log_odds = smallest[:, 0] - (smallest - moved).exp().sum(dim=1).log()
    probs = torch.where(log_odds.mean(dim=1, keepdim=True) > 0, -log_odds, log_odds).sigmoid()
    spread = (probs - probs.mean(dim=1, keepdim=True)).square().mean(dim=1).sqrt()
    return spread.to(margins.dtype)


def cholesky(covariance: Tensor) -> Tensor:
    """Return the lower Cholesky factor L (N, k, k) of covariances, which may be singular or zero.

    Their correlations are shrunk by a ten-thousandth; their variances are kept.
    """
    variances = covariance.diagonal(dim1=1, dim2=2)
    added = SHRINKAGE * variances + torch.finfo(covariance.dtype).tiny
    factor: Tensor = torch.linalg.cholesky_ex((1 - SHRINKAGE) * covariance + added.diag_embed()).L
    return factor


def normal_points(k: int) -> Tensor:
    """Return points (P, k) float32 in place of standard normals: of mean zero and of covariance one.

    For one margin they are quantiles of a normal at the middles of equal parts, scaled; for several, Sobol points
    through the normal quantile, with the negation of each, made uncorrelated by the polar factor.
    """
    if k == 1:
        middles = (torch.arange(LINE_POINTS, dtype=torch.float64) + 0.5) / LINE_POINTS
        quantiles: Tensor = torch.special.ndtri(middles)
        return (quantiles / quantiles.square().mean().sqrt()).float()[:, None]
    uniform = torch.quasirandom.SobolEngine(k).draw(POINTS // 2 + 1, dtype=torch.float64)[1:]  # without the corner
    left, _, right = torch.linalg.svd(torch.special.ndtri(uniform), full_matrices=False)
    half = math.sqrt(POINTS // 2) * (left @ right)
    return torch.cat([half, -half]).float()
