"""Moments propagated through a tower: the variation without sampling and without training.

Mean μ and variance v, or covariance Σ, of the values of a layer under dropout, from the first layer to the last:

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

from suffice.inputs import prepare
from suffice.models.tower import Embeddings
from suffice.network import ExitNetwork, State
from suffice.twin import inference
from suffice.variation.baselines.exact import computes_as
from suffice.variation.teachers.sites import check_rate
from suffice.variation.teachers.spreads import LikelihoodName, check_likelihood

_SMALL = 1e-30
_LAYERS = (nn.Linear, nn.ReLU, nn.Dropout, nn.BatchNorm1d)


@dataclass(frozen=True)
class PropagatedMoments:
    """Mean and dispersion of the values of a layer under dropout.

    Attributes:
        mean: Mean, (N, D) float64.
        dispersion: Variance (N, D), or covariance (N, D, D), float64.
    """

    mean: Tensor
    dispersion: Tensor

    @property
    def variance(self) -> Tensor:
        """Variance of each value, (N, D)."""
        return self.dispersion if self.dispersion.ndim == 2 else self.dispersion.diagonal(dim1=1, dim2=2)


def propagate(
    tower: nn.Sequential | ExitNetwork,
    x: State,
    *,
    full: bool = True,
    rate: float | None = None,
    memory: int = 1 << 28,
) -> PropagatedMoments:
    """Propagate moments through a tower under its own dropout.

    Args:
        tower: `nn.Sequential`, nested or not, of linear layers, ReLU, dropout, flattening and batch normalization,
            which is taken in evaluation mode; `Embeddings` may be the first layer. Of a network of such stages the
            last exit counts.
        x: Inputs of the tower: numbers, which are flattened to (N, D), or inputs of its embeddings.
        full: Whether to propagate covariances, at the cost of D² memory and D³ time an example, or variances alone.
        rate: Rate in place of the dropouts' own, where that is above 0.
        memory: Bytes that the covariances of a layer may take at once; rows are processed in parts of that size.

    Returns:
        Moments of the outputs, with covariances (N, C, C) if `full`, else variances (N, C).

    Raises:
        TypeError: For any other module, and for a subclass of these with a forward, hooks or a parametrization of its
            own, whose mathematics is not known.
        ValueError: For a rate outside (0, 1), or a tower without dropout.
    """
    if rate is not None:
        check_rate(rate)
    with inference(tower) as twin:
        return _propagate(twin, prepare(x, tower), full, rate, memory)


def _propagate(
    tower: nn.Sequential | ExitNetwork, x: State, full: bool, rate: float | None, memory: int
) -> PropagatedMoments:
    embeddings, layers = _layers(tower)
    dropouts = [layer for layer in layers if isinstance(layer, nn.Dropout)]
    if not any(_rate(layer, rate) for layer in [*dropouts, *([embeddings.dropout] if embeddings else [])]):
        raise ValueError("expected a tower with dropout of a rate above 0, got one without; its variance would be zero")
    start = _constants(x) if embeddings is None else _embed(embeddings, x, rate)
    widest = max([start.mean.shape[1], *(layer.out_features for layer in layers if isinstance(layer, nn.Linear))])
    rows = max(1, memory // (8 * widest**2)) if full else len(start.mean)
    pieces = zip(start.mean.split(rows), start.dispersion.split(rows), strict=True)
    parts = [_through_layers(layers, PropagatedMoments(*piece), full, rate) for piece in pieces]
    return PropagatedMoments(torch.cat([part.mean for part in parts]), torch.cat([part.dispersion for part in parts]))


def spread(moments: PropagatedMoments, likelihood: LikelihoodName = "classification") -> Tensor:
    """Return the spread "std" (N,) that moments of the outputs imply.

    For a logit or a prediction it is their standard deviation. For a classification it is that of the top class's
    probability to first order at the mean logits, √(gᵀΣg) with g = p_top(e_top − p); for several labels that of each
    label's probability, with the slope p(1 − p).
    """
    check_likelihood(likelihood)
    if likelihood == "multilabel":
        slopes = moments.mean.sigmoid() * (-moments.mean).sigmoid()
        return (slopes.square() * moments.variance).mean(dim=1).sqrt()
    if likelihood != "classification":
        return moments.variance.mean(dim=1).sqrt()
    probs = moments.mean.softmax(dim=1)
    top = probs.argmax(dim=1, keepdim=True)
    slope = -probs.gather(1, top) * probs
    slope.scatter_add_(1, top, probs.gather(1, top))
    if moments.dispersion.ndim == 2:
        return (slope.square() * moments.dispersion).sum(dim=1).sqrt()
    return ((slope[:, None] @ moments.dispersion)[:, 0] * slope).sum(dim=1).clamp_min(0).sqrt()


def _layers(tower: nn.Sequential | ExitNetwork) -> tuple[Embeddings | None, list[nn.Module]]:
    """Return the embeddings at the beginning of a tower, if there are any, and its other layers in order."""
    modules: Iterable[nn.Module] = [tower]
    if isinstance(tower, ExitNetwork) and computes_as(tower, ExitNetwork) and _advances(tower):
        last = tower.exit(len(tower.exits) - 1)
        modules = [*tower.stages, last.features, last.classifier]
    layers = list(_flatten(modules))
    first = layers[0] if layers else None
    embeddings = first if isinstance(first, Embeddings) and computes_as(first, Embeddings) else None
    layers = layers if embeddings is None else layers[1:]
    for layer in layers:
        if not any(computes_as(layer, base) for base in _LAYERS):
            own = " with a forward, hooks or weights of its own" if isinstance(layer, (*_LAYERS, nn.Sequential)) else ""
            raise TypeError(
                f"expected Linear, ReLU, Dropout, Flatten or BatchNorm1d in a tower, got {type(layer).__name__}{own}; "
                "pass the part of the model that consists of those, and its inputs"
            )
    return embeddings, layers


def _advances(network: ExitNetwork) -> bool:
    """Return whether a network runs its stages and exits one after another."""
    return type(network).advance is ExitNetwork.advance


def _flatten(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    for module in modules:
        if computes_as(module, nn.Sequential):
            yield from _flatten(module.children())
        elif not (computes_as(module, nn.Identity) or computes_as(module, nn.Flatten)):
            yield module


def _rate(layer: nn.Dropout, rate: float | None) -> float:
    """Return the rate of a dropout; one with rate 0 stays inactive, as for `MCDropout`."""
    return rate if rate is not None and layer.p else layer.p


def _constants(x: Tensor) -> PropagatedMoments:
    mean = x.double().flatten(start_dim=1)
    return PropagatedMoments(mean, torch.zeros_like(mean))


def _embed(embeddings: Embeddings, x: State, rate: float | None) -> PropagatedMoments:
    """Return the moments of embedded ids, which are dropped, next to numbers, which are not."""
    mean = embeddings(x).double()
    p = _rate(embeddings.dropout, rate)
    variance = p / (1 - p) * mean.square()
    variance[:, mean.shape[1] - embeddings.numeric :] = 0
    return PropagatedMoments(mean, variance)


def _through_layers(
    layers: list[nn.Module], start: PropagatedMoments, full: bool, rate: float | None
) -> PropagatedMoments:
    moments = start
    for layer in layers:
        moments = _through_layer(layer, moments, full, rate)
    if full and moments.dispersion.ndim == 2:
        moments = PropagatedMoments(moments.mean, moments.dispersion.diag_embed())
    return moments


def _through_layer(layer: nn.Module, moments: PropagatedMoments, full: bool, rate: float | None) -> PropagatedMoments:
    if isinstance(layer, nn.Dropout):
        p = _rate(layer, rate)
        noise = p / (1 - p) * (moments.mean.square() + moments.variance)
        noise = noise.diag_embed() if moments.dispersion.ndim == 3 else noise
        return PropagatedMoments(moments.mean, moments.dispersion + noise)
    if isinstance(layer, nn.Linear):
        bias = 0.0 if layer.bias is None else layer.bias.double()
        return _linear(layer.weight.double(), bias, moments, full)
    if isinstance(layer, nn.BatchNorm1d):
        return _batch_norm(layer, moments)
    return _relu(moments)


def _linear(weight: Tensor, bias: Tensor | float, moments: PropagatedMoments, full: bool) -> PropagatedMoments:
    """Propagate through a linear layer. Covariances first arise in the first one after a dropout."""
    mean, dispersion = moments.mean @ weight.T + bias, moments.dispersion
    if dispersion.ndim == 3:
        return PropagatedMoments(mean, weight @ dispersion @ weight.T)
    if full and bool(dispersion.any()):
        return PropagatedMoments(mean, (weight * dispersion[:, None, :]) @ weight.T)
    return PropagatedMoments(mean, dispersion @ weight.square().T)


def _batch_norm(layer: nn.BatchNorm1d, moments: PropagatedMoments) -> PropagatedMoments:
    if layer.running_mean is None or layer.running_var is None:
        raise ValueError("expected batch normalization with running statistics, got one that uses those of the batch")
    scale = (layer.running_var.double() + layer.eps).rsqrt()
    scale = scale if layer.weight is None else scale * layer.weight.double()
    shift = 0.0 if layer.bias is None else layer.bias.double()
    mean = (moments.mean - layer.running_mean.double()) * scale + shift
    square = scale.square() if moments.dispersion.ndim == 2 else scale[:, None] * scale
    return PropagatedMoments(mean, moments.dispersion * square)


def _relu(moments: PropagatedMoments) -> PropagatedMoments:
    deviation = moments.variance.clamp_min(0).sqrt()
    alpha = moments.mean / deviation.clamp_min(_SMALL)
    density = torch.exp(-alpha.square() / 2) / math.sqrt(2 * math.pi)
    above = torch.special.ndtr(alpha)
    mean = moments.mean * above + deviation * density
    square = (moments.mean.square() + moments.variance) * above + moments.mean * deviation * density
    variance = (square - mean.square()).clamp_min(0)
    if moments.dispersion.ndim == 2:
        return PropagatedMoments(mean, variance)
    correlation = moments.dispersion / (deviation[:, :, None] * deviation[:, None, :]).clamp_min(_SMALL)
    factors = (above, density, -alpha * density, (alpha.square() - 1) * density)
    covariance = torch.zeros_like(correlation)
    power = torch.ones_like(correlation)
    for n, factor in enumerate(factors, start=1):
        power = power * correlation / n
        coefficient = deviation * factor
        covariance += power * (coefficient[:, :, None] * coefficient[:, None, :])
    covariance.diagonal(dim1=1, dim2=2).copy_(variance)
    return PropagatedMoments(mean, covariance)
