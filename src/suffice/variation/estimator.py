"""Learn what a teacher would say about a prediction's variation, from one ordinary pass.

A teacher gives each training row the variance s² of its prediction over T passes, with divisor T − 1. A small
network predicts log v from the model's output and its activation strengths, and minimises

    QLIKE    log v + s²/v

whose minimiser is the true variance, however few the passes (T ≥ 2), so that many rows with few passes teach
more than few rows with many. The running average of the weights is kept that does best on unseen rows.

The answer stays in the range that the labels of the training rows and the values fitted to them have in common:
the labels' alone is too wide by the noise of T passes, the fitted values may overshoot it.

Yu et al. 2021 (arXiv 2110.06435), after Chen et al. 2021 (arXiv 2008.07032); the loss is that of Patton 2011,
the averaging of weights that of Shamir and Zhang 2013.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from suffice import batches
from suffice.batches import Loader
from suffice.network import State, check_fingerprint, check_finite, fingerprint
from suffice.variation.spreads import outputs as answered
from suffice.variation.strengths import Scaling, capture, layer_names, output_features
from suffice.variation.teachers import Teacher

TARGETS = ("std", "std_mean")
"""Spreads whose square is a variance, which a few passes estimate without bias."""

_FLOOR = 1e-4
"""Least variance that is told apart, in units of the labels' mean variance."""
_BATCH = 256
_LEARNING_RATE = 1e-3
_WEIGHT_DECAY = 1e-2
_PATIENCE = 10
"""Epochs without a better validation loss after which fitting stops."""


@dataclass(frozen=True, eq=False)
class VariationEstimator:
    """A model that says with each answer how much it varies. Made by `fit_variation`.

    Attributes:
        model: the model, its weights untouched.
        layers: names of the layers whose strengths are read; without any, the output alone is.
        target: which spread it estimates, in units of probability.
        passes: T of the labels that it learned from.
        network_hash: `fingerprint` of the model's weights at fitting.
        unit: mean variance of the training labels.
        bounds: least and greatest answer, in units of probability.
        scaling: how features become inputs.
        weights: of the small network: matrix, bias, matrix, bias, …
    """

    model: nn.Module
    layers: tuple[str, ...]
    target: str
    passes: int
    network_hash: str
    unit: float
    bounds: tuple[float, float]
    scaling: Scaling
    weights: tuple[Tensor, ...]

    def __call__(self, x: State) -> tuple[Any, Tensor]:
        """The model's own output, bit for bit, and the variation (N,) float32 of the target, in one pass.

        The model runs in evaluation mode without gradients; x is on its device.

        Raises:
            ValueError: if an output or a strength is not finite.
        """
        output, features = _features(self.model, x, self.layers)
        inputs = self.scaling.to(features.device)(features)
        variance = _variance([weight.to(features.device) for weight in self.weights], inputs)
        return output, (self.unit * variance).sqrt().clamp(*self.bounds)

    def clipped_share(self, x: State) -> Tensor:
        """Share (N,) of the features that had to be clipped: large where x is unlike the training rows."""
        _, features = _features(self.model, x, self.layers)
        return self.scaling.to(features.device).clipped_share(features)

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Configuration and tensors of an artifact; the model's weights stay with the model."""
        configuration = {
            "network_hash": self.network_hash,
            "layers": list(self.layers),
            "target": self.target,
            "passes": self.passes,
            "mean_label_variance": self.unit,
            "bounds": list(self.bounds),
        }
        tensors = {f"scaling.{name}": tensor for name, tensor in vars(self.scaling).items()}
        tensors.update({f"weights.{i}": tensor for i, tensor in enumerate(self.weights)})
        return configuration, tensors

    @classmethod
    def from_parts(
        cls, configuration: dict[str, Any], tensors: dict[str, Tensor], network: nn.Module | None
    ) -> "VariationEstimator":
        """The reverse of `parts`, for the model that it was made from.

        Raises:
            TypeError: if the model is missing.
            ValueError: if its weights are not those at fitting.
        """
        if network is None:
            raise TypeError(
                "expected the model that the estimator was fitted for, got None; pass suffice.load(path, network=…)"
            )
        check_fingerprint(network, configuration["network_hash"])
        device, _ = batches.placement(network)
        count = sum(name.startswith("weights.") for name in tensors)
        names = Scaling.__dataclass_fields__
        low, high = configuration["bounds"]
        return cls(
            network,
            tuple(configuration["layers"]),
            configuration["target"],
            configuration["passes"],
            configuration["network_hash"],
            configuration["mean_label_variance"],
            (low, high),
            Scaling(*(tensors[f"scaling.{name}"] for name in names)).to(device),
            tuple(tensors[f"weights.{i}"].to(device) for i in range(count)),
        )


def fit_variation(
    model: nn.Module,
    train_loader: Loader,
    val_loader: Loader,
    *,
    teacher: Teacher,
    layers: str | Sequence[str] | None = None,
    target: str = "std",
    hidden: Sequence[int] = (64, 64),
    epochs: int = 40,
    generator: torch.Generator | None = None,
) -> VariationEstimator:
    """Learn what `teacher` says about a trained model, so that one pass can say it.

    Args:
        model: a classifier with logits (N, C), or a list of them of which the last counts.
        train_loader: batches of inputs as they will be met in use, hard ones too; read once. No labels are
            needed: the teacher gives them. Prefer many rows to many passes, about 10 passes are enough.
        val_loader: other inputs, on which fitting is judged against passes of their own; read once.
        teacher: `MCDropout(…)`, or any other.
        layers: names or patterns of the layers whose strengths are read; None for every activation module,
            an empty list for the output alone.
        target: "std" or "std_mean".
        hidden: widths of the small network's hidden layers.
        epochs: at most so many passes over the training rows.
        generator: randomness of teacher and fit; the same state gives the same bytes.

    Raises:
        ValueError: for another target, fewer than two training rows, labels or features that are not finite
            or labels that are all zero, an empty loader, or what `layer_names` and the teacher refuse.
    """
    if target not in TARGETS:
        raise ValueError(
            f"expected target to be one of {TARGETS}, got {target!r}; the mutual information of a few "
            "passes is biased, so it cannot be learned from them"
        )
    names = layer_names(model, layers)
    seen = _labelled(model, train_loader, names, teacher, target, generator)
    unit = _checked_unit(seen.variances, target)
    unseen = _labelled(model, val_loader, names, teacher, target, generator)
    scaling = Scaling.fit(seen.features, seen.outputs)
    inputs = scaling(seen.features)
    weights = _initial(inputs.shape[1], hidden, inputs.device, generator)
    training, validation = (inputs, seen.variances / unit), (scaling(unseen.features), unseen.variances / unit)
    weights = _train(weights, training, validation, epochs, generator)
    bounds = _bounds(unit * _variance(weights, inputs), seen.variances)
    return VariationEstimator(
        model, names, target, seen.passes, fingerprint(model), unit, bounds, scaling, tuple(weights)
    )


@dataclass(frozen=True)
class _Rows:
    """Features (N, F), of which the first `outputs` describe the output; variances (N,) over `passes`."""

    features: Tensor
    outputs: int
    variances: Tensor
    passes: int


def _features(model: nn.Module, x: State, layers: Sequence[str], start: int = 0) -> tuple[Any, Tensor]:
    """The model's output and the features (N, F) of it and of the strengths, checked."""
    output, strengths = capture(model, x, layers)
    features = torch.cat([output_features(answered(output, "classification")), strengths], dim=1)
    check_finite(features, "logits and activation strengths", start)
    return output, features


def _labelled(
    model: nn.Module,
    loader: Loader,
    layers: Sequence[str],
    teacher: Teacher,
    target: str,
    generator: torch.Generator | None,
) -> _Rows:
    """Features and the teacher's labels of all examples of a loader, checked."""
    features, variances = [], []
    for batch in batches.read(loader, model):
        output, rows = _features(model, batch.inputs, layers, batch.start)
        variation = teacher(model, batch.inputs, generator=generator)
        check_finite(variation[target], f"labels {target!r}", batch.start)
        features.append(rows)
        variances.append(variation[target].square().float())
    outputs = output_features(answered(output, "classification")).shape[1]
    return _Rows(torch.cat(features), outputs, torch.cat(variances), variation.passes)


def _checked_unit(variances: Tensor, target: str) -> float:
    """Mean of the training labels' variances (N,)."""
    if len(variances) < 2:
        raise ValueError(f"expected at least 2 training rows, got {len(variances)}; pass thousands of them")
    unit = float(variances.double().mean())
    if unit == 0:
        raise ValueError(
            f"expected labels {target!r} above zero, got zero for all {len(variances)} training rows; choose "
            "a teacher under which the predictions vary"
        )
    return unit


def _bounds(fitted: Tensor, labels: Tensor) -> tuple[float, float]:
    """Least and greatest standard deviation within the range both of fitted and of labelled variances (N,)."""
    least, greatest = max(fitted.min(), labels.min()), min(fitted.max(), labels.max())
    return math.sqrt(least), math.sqrt(greatest)


def _initial(
    inputs: int, hidden: Sequence[int], device: torch.device, generator: torch.Generator | None
) -> list[Tensor]:
    """Random weights (He et al. 2015), the last matrix small so that fitting starts at the mean variance."""
    place = device if generator is None else generator.device
    weights = []
    for fan_in, fan_out in pairwise([inputs, *hidden, 1]):
        matrix = torch.randn(fan_out, fan_in, device=place, generator=generator) * math.sqrt(2 / fan_in)
        weights += [matrix.to(device), torch.zeros(fan_out, device=device)]
    weights[-2] *= 0.1
    return weights


def _variance(weights: Sequence[Tensor], inputs: Tensor) -> Tensor:
    """Variances (N,) in units of the labels' mean, of inputs (N, K)."""
    values = inputs
    for i in range(0, len(weights) - 2, 2):
        values = functional.relu(functional.linear(values, weights[i], weights[i + 1]))
    return functional.linear(values, weights[-2], weights[-1])[:, 0].exp() + _FLOOR


def _qlike(variances: Tensor, labels: Tensor) -> Tensor:
    return (variances.log() + labels / variances).mean()


def _train(
    weights: list[Tensor],
    training: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    epochs: int,
    generator: torch.Generator | None,
) -> list[Tensor]:
    """Fit to inputs (N, K) and labels (N,); the average of the weights where its validation loss was least.

    The average leans on the last tenth of the steps, which takes most of the labels' noise out of the weights.
    """
    inputs, labels = training
    device = None if generator is None else generator.device
    for weight in weights:
        weight.requires_grad_()
    average = [weight.detach().clone() for weight in weights]
    best, least, waited, steps = average, math.inf, 0, 0
    optimiser = torch.optim.AdamW(weights, lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    for _ in range(epochs):
        order = torch.randperm(len(inputs), device=device, generator=generator).to(inputs.device)
        for index in order.split(_BATCH):
            optimiser.zero_grad()
            _qlike(_variance(weights, inputs[index]), labels[index]).backward()
            optimiser.step()
            steps += 1
            for mean, weight in zip(average, weights, strict=True):
                mean.lerp_(weight.detach(), 10 / (steps + 10))
        loss = float(_qlike(_variance(average, validation[0]), validation[1]))
        waited += 1
        if loss < least:
            best, least, waited = [mean.clone() for mean in average], loss, 0
        if waited >= _PATIENCE:
            break
    return best
