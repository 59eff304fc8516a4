"""The variation without sampling and without training: moments propagated through a tower.

Mean μ and variance v, or covariance Σ, of the values of a layer under dropout, from the first to the last:

    dropout of rate ρ    μ,           Σ + ρ/(1 − ρ) · diag(μ² + v)                         exact
    linear, W and b      Wμ + b,      W Σ Wᵀ                                               exact
    ReLU                 of normal values with these moments, α = μ/√v:
        μ′ = μ Φ(α) + √v φ(α),      v′ = (μ² + v) Φ(α) + μ √v φ(α) − μ′²
        Σ′_ij = Σ_n ρ_ij^n/n! · c_n(i) c_n(j),   ρ the correlation,   c_1 = √v Φ(α),  c_n = √v φ⁽ⁿ⁻²⁾(α)

With `full=False` covariances are left out. Postels et al. 2019 (arXiv 1908.00598), Brach et al. 2020 (arXiv
2007.03293); the series is that of Price's theorem, cut after n = 4.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from suffice.models.tower import Embeddings
from suffice.network import ExitNetwork, State
from suffice.twin import inference
from suffice.variation.teachers.sites import check_rate
from suffice.variation.teachers.spreads import LikelihoodName, check_likelihood

_SMALL = 1e-30


@dataclass(frozen=True)
class Moments:
    """mean: (N, D) float64.  spread: variance (N, D), or covariance (N, D, D)."""

    mean: Tensor
    spread: Tensor

    @property
    def variance(self) -> Tensor:
        """(N, D)."""
        return self.spread if self.spread.ndim == 2 else self.spread.diagonal(dim1=1, dim2=2)


def propagate(
    tower: nn.Sequential | ExitNetwork,
    x: State,
    *,
    full: bool = True,
    rate: float | None = None,
    memory: int = 1 << 28,
) -> Moments:
    """Moments of a tower's outputs under its own dropout.

    Args:
        tower: `nn.Sequential`, nested or not, of linear layers, ReLU, dropout, flattening and batch normalisation,
            which counts as in evaluation mode; `Embeddings` may be the first. A network of such stages answers at
            its last exit.
        x: what the tower takes: numbers, which are flattened to (N, D), or what its embeddings take.
        full: covariances, at the cost of D² memory and D³ time an example; else variances alone.
        rate: in place of the dropouts' own, where that is above 0.
        memory: bytes that the covariances of a layer may take at once; rows are cut to that.

    Raises:
        TypeError: for any other module.
        ValueError: for a rate outside (0, 1), or a tower without dropout.
    """
    if rate is not None:
        check_rate(rate)
    with inference(tower) as twin:
        return _moments(twin, x, full, rate, memory)


def _moments(tower: nn.Sequential | ExitNetwork, x: State, full: bool, rate: float | None, memory: int) -> Moments:
    embeddings, layers = _layers(tower)
    dropouts = [layer for layer in layers if isinstance(layer, nn.Dropout)]
    if not any(_rate(layer, rate) for layer in [*dropouts, *([embeddings.dropout] if embeddings else [])]):
        raise ValueError("expected a tower with dropout of a rate above 0, got one without; its variance would be zero")
    start = _numbers(x) if embeddings is None else _embedded(embeddings, x, rate)
    widest = max([start.mean.shape[1], *(layer.out_features for layer in layers if isinstance(layer, nn.Linear))])
    rows = max(1, memory // (8 * widest**2)) if full else len(start.mean)
    pieces = zip(start.mean.split(rows), start.spread.split(rows), strict=True)
    parts = [_propagated(layers, Moments(*piece), full, rate) for piece in pieces]
    return Moments(torch.cat([part.mean for part in parts]), torch.cat([part.spread for part in parts]))


def spread(moments: Moments, likelihood: LikelihoodName = "classification") -> Tensor:
    """The spread "std" (N,) that moments of the outputs imply.

    Of the logit or the prediction it is their own; that of the top class's probability is to first order at the mean
    logits, √(gᵀΣg) with g = p_top(e_top − p).
    """
    check_likelihood(likelihood)
    if likelihood != "classification":
        return moments.variance.mean(dim=1).sqrt()
    probs = moments.mean.softmax(dim=1)
    top = probs.argmax(dim=1, keepdim=True)
    slope = -probs.gather(1, top) * probs
    slope.scatter_add_(1, top, probs.gather(1, top))
    if moments.spread.ndim == 2:
        return (slope.square() * moments.spread).sum(dim=1).sqrt()
    return torch.einsum("nc,ncd,nd->n", slope, moments.spread, slope).clamp_min(0).sqrt()


def _layers(tower: nn.Sequential | ExitNetwork) -> tuple[Embeddings | None, list[nn.Module]]:
    """The embeddings that a tower begins with, if it does, and its layers in the order in which they run."""
    modules: Iterable[nn.Module] = [tower]
    if isinstance(tower, ExitNetwork):
        last = tower.exit(len(tower.exits) - 1)
        modules = [*tower.stages, last.features, last.classifier]
    layers = list(_flat(modules))
    first = layers[0] if layers else None
    embeddings, layers = (first, layers[1:]) if isinstance(first, Embeddings) else (None, layers)
    for layer in layers:
        if not isinstance(layer, (nn.Linear, nn.ReLU, nn.Dropout, nn.BatchNorm1d)):
            raise TypeError(
                f"expected Linear, ReLU, Dropout, Flatten or BatchNorm1d in a tower, got {type(layer).__name__}; "
                "pass the part of the model that is made of those, and its inputs"
            )
    return embeddings, layers


def _flat(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    for module in modules:
        if isinstance(module, nn.Sequential):
            yield from _flat(module)
        elif not isinstance(module, (nn.Identity, nn.Flatten)):
            yield module


def _rate(layer: nn.Dropout, rate: float | None) -> float:
    """What a dropout drops; one of rate 0 is none, as for `MCDropout`."""
    return rate if rate is not None and layer.p else layer.p


def _numbers(x: Tensor) -> Moments:
    mean = x.double().flatten(start_dim=1)
    return Moments(mean, torch.zeros_like(mean))


def _embedded(embeddings: Embeddings, x: State, rate: float | None) -> Moments:
    """Moments of embedded ids, which are dropped, beside numbers, which are not."""
    mean = embeddings(x).double()
    p = _rate(embeddings.dropout, rate)
    variance = p / (1 - p) * mean.square()
    variance[:, mean.shape[1] - embeddings.numeric :] = 0
    return Moments(mean, variance)


def _propagated(layers: list[nn.Module], start: Moments, full: bool, rate: float | None) -> Moments:
    moments = start
    for layer in layers:
        moments = _through(layer, moments, full, rate)
    if full and moments.spread.ndim == 2:
        moments = Moments(moments.mean, moments.spread.diag_embed())
    return moments


def _through(layer: nn.Module, moments: Moments, full: bool, rate: float | None) -> Moments:
    if isinstance(layer, nn.Dropout):
        p = _rate(layer, rate)
        added = p / (1 - p) * (moments.mean.square() + moments.variance)
        return Moments(moments.mean, moments.spread + (added.diag_embed() if moments.spread.ndim == 3 else added))
    if isinstance(layer, nn.Linear):
        bias = 0.0 if layer.bias is None else layer.bias.double()
        return _linear(layer.weight.double(), bias, moments, full)
    if isinstance(layer, nn.BatchNorm1d):
        return _normalized(layer, moments)
    return _relu(moments)


def _linear(weight: Tensor, bias: Tensor | float, moments: Moments, full: bool) -> Moments:
    """Up to here covariances may be zero: they arise in the first linear layer behind a dropout."""
    mean, spread = moments.mean @ weight.T + bias, moments.spread
    if spread.ndim == 3:
        return Moments(mean, weight @ spread @ weight.T)
    if full and bool(spread.any()):
        return Moments(mean, (weight * spread[:, None, :]) @ weight.T)
    return Moments(mean, spread @ weight.square().T)


def _normalized(layer: nn.BatchNorm1d, moments: Moments) -> Moments:
    if layer.running_mean is None or layer.running_var is None:
        raise ValueError("expected batch normalisation with running statistics, got one that uses those of the batch")
    scale = (layer.running_var.double() + layer.eps).rsqrt()
    scale = scale if layer.weight is None else scale * layer.weight.double()
    shift = 0.0 if layer.bias is None else layer.bias.double()
    mean = (moments.mean - layer.running_mean.double()) * scale + shift
    square = scale.square() if moments.spread.ndim == 2 else scale[:, None] * scale
    return Moments(mean, moments.spread * square)


def _relu(moments: Moments) -> Moments:
    deviation = moments.variance.clamp_min(0).sqrt()
    alpha = moments.mean / deviation.clamp_min(_SMALL)
    density = torch.exp(-alpha.square() / 2) / math.sqrt(2 * math.pi)
    above = torch.special.ndtr(alpha)
    mean = moments.mean * above + deviation * density
    square = (moments.mean.square() + moments.variance) * above + moments.mean * deviation * density
    variance = (square - mean.square()).clamp_min(0)
    if moments.spread.ndim == 2:
        return Moments(mean, variance)
    correlation = moments.spread / (deviation[:, :, None] * deviation[:, None, :]).clamp_min(_SMALL)
    factors = (above, density, -alpha * density, (alpha.square() - 1) * density)
    covariance = torch.zeros_like(correlation)
    power = torch.ones_like(correlation)
    for n, factor in enumerate(factors, start=1):
        power = power * correlation / n
        own = deviation * factor
        covariance += power * (own[:, :, None] * own[:, None, :])
    covariance.diagonal(dim1=1, dim2=2).copy_(variance)
    return Moments(mean, covariance)
