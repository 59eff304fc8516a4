"""Small estimators to export, and a bound on the difference of two computations of their estimates."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import suffice
from suffice.network import State
from suffice.storage.fingerprint import fingerprint
from suffice.utils.nest import tree_leaves
from suffice.variation.estimator import Estimate
from tests.deploy import models
from tests.tolerances import SIGMAS, gamma
from tests.variation import fits

SIDE = 5


class Outputs(NamedTuple):
    """Output of a model with a name for each tensor."""

    logits: Tensor
    hidden: Tensor


class Functions(nn.Module):
    """Convolution with activations and dropout as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.hidden, self.last = nn.Conv2d(1, 4, 3), nn.Linear(36, 6), nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Outputs:
        h = nn.functional.relu(self.convolution(images)).flatten(1)
        h = torch.tanh(self.hidden(nn.functional.dropout(h, 0.4, self.training)))
        return Outputs(self.last(h), h)


class WithLogits(nn.Module):
    """Model that returns its logits in an object, as libraries do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> "Output":
        return Output(self.model(x))


@dataclass
class Output:
    """Output that is no nest of torch."""

    logits: Tensor


def deep(outputs: int) -> nn.Module:
    """Return a model whose dropout acts on two linear layers at its end."""
    hidden = [nn.Linear(3, 8), nn.GELU(), nn.Dropout(0.3), nn.Linear(8, 6), nn.Tanh(), nn.Dropout(0.3)]
    return nn.Sequential(*hidden, nn.Linear(6, outputs))


def seeded(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build().eval()


def dropout(likelihood: str) -> suffice.MCDropout:
    return suffice.MCDropout(passes=6, likelihood=likelihood)


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 1, SIDE, SIDE, generator=fits.seeded(seed))


def ensemble() -> suffice.EnsembleTeacher:
    """Return a teacher that is not dropout."""
    return suffice.EnsembleTeacher([seeded(Functions, seed) for seed in range(3)])


@dataclass(frozen=True)
class Case:
    """Model with the choices of a fit."""

    build: Callable[[], nn.Module]
    choices: dict[str, Any]
    inputs: Callable[..., Tensor] = fits.rows


FAST = {
    "margins and strengths": Case(fits.tower, {"layers": ["<margins>", "1"], "strengths": "both"}),
    "functions and an ensemble": Case(Functions, {"teacher": ensemble, "strengths": "on"}, images),
    "margins of two layers": Case(
        lambda: deep(2), {"layers": ["<margins>"], "teacher": lambda: dropout("regression"), "method": "ridge"}
    ),
    "output of an object": Case(
        lambda: WithLogits(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))),
        {"layers": [], "teacher": lambda: dropout("binary")},
    ),
    "labels": Case(fits.tower, {"layers": "last", "teacher": lambda: dropout("multilabel"), "target": "disagreement"}),
}
SLOW = {
    "margins of labels": Case(fits.tower, {"layers": ["<margins>"], "teacher": lambda: dropout("multilabel")}),
    "margins of a question": Case(
        lambda: deep(1), {"layers": ["<margins>", "*"], "teacher": lambda: dropout("binary")}
    ),
    "margins of many classes": Case(lambda: deep(6), {"layers": ["<margins>"]}),
    "margins of two classes": Case(lambda: deep(2), {"layers": ["<margins>"]}),
}


@cache
def estimator(name: str) -> suffice.VariationEstimator:
    """Return the estimator of a case."""
    case = {**FAST, **SLOW}[name]
    teacher = case.choices.get("teacher", lambda: fits.TEACHER)()
    choices = {"epochs": 3, "hidden": (8,), **case.choices, "teacher": teacher}
    train, val = [case.inputs(64)], [case.inputs(32, seed=1)]
    return suffice.fit_variation(seeded(case.build), train, val, generator=fits.seeded(), **choices)


@cache
def text_estimator() -> suffice.VariationEstimator:
    """Return an estimator of the text model, whose strengths leave out padding."""
    train, val = ([models.texts(20, tokens, seed) for tokens in (models.TOKENS, 6)] for seed in (0, 1))
    return suffice.fit_variation(
        models.calibrated_text().network,
        train,
        val,
        teacher=suffice.MCDropout(passes=6),
        epochs=3,
        hidden=(8,),
        generator=fits.seeded(),
    )


TERMS, DRAWS = 64, 12
"""Bound on the terms of each sum in a tiny model and its estimator, and number of perturbed estimators."""


def perturbed(estimator: suffice.VariationEstimator, generator: torch.Generator) -> suffice.VariationEstimator:
    """Return the estimator with all its numbers and those of its model moved by a relative γ of random sign."""

    def moved(tensor: Tensor) -> Tensor:
        signs = torch.randint(2, tensor.shape, generator=generator) * 2 - 1
        return tensor * (1 + gamma(TERMS, torch.float32) * signs) if tensor.is_floating_point() else tensor

    model = copy.deepcopy(estimator.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(moved(parameter))
    fitted = estimator.fitted_mlp
    scaling = replace(fitted.scaling, **{name: moved(tensor) for name, tensor in fitted.scaling.tensors().items()})
    distance = replace(fitted.distance, directions=moved(fitted.distance.directions))
    fitted = replace(fitted, scaling=scaling, weights=tuple(map(moved, fitted.weights)), distance=distance)
    return replace(estimator, model=model, network_hash=fingerprint(model), fitted_mlp=fitted)


def flat(estimate: Estimate) -> list[Tensor]:
    """Return the tensors of an estimate that two computations do not give alike to the byte."""
    output = estimate.output.logits if isinstance(estimate.output, Output) else estimate.output
    return [*tree_leaves(output), estimate.variation, estimate.distance]


def tolerances(estimator: suffice.VariationEstimator, x: State) -> list[float]:
    """Return bounds on the difference of two computations in float32 of each of the tensors in `flat`.

    A computed sum is the exact one of numbers that differ by a relative γ from those given (Higham 2002, section 3.1).
    So each of two computations is the exact one of an estimator and a model whose numbers differ that much. The
    standard deviation of the change under such moves of random sign is estimated from some draws; twice its multiple
    bounds the difference.
    """
    generator, exact = torch.Generator().manual_seed(0), flat(estimator.estimate(x))
    draws = [flat(perturbed(estimator, generator).estimate(x)) for _ in range(DRAWS)]
    changes = [torch.stack([draw[i] - exact[i] for draw in draws]) for i in range(len(exact))]
    return [2 * SIGMAS * float(change.square().mean(dim=0).sqrt().max()) for change in changes]
