"""Entry points of the library that run a model, as functions that can be repeated on the same model."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import suffice
from suffice import cost
from suffice.calibration import density
from suffice.variation.features import strengths
from tests import builders
from tests.robustness import odd

TEACHER = suffice.MCDropout(passes=4)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs(count: int = 24, seed: int = 0) -> Tensor:
    return torch.randn(count, odd.INPUTS, generator=seeded(seed), dtype=torch.float32)


def labeled(seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    x = inputs(48, seed)
    return [*zip(x.split(24), torch.arange(48).remainder(odd.CLASSES).split(24), strict=True)]


def activation(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.ReLU)][:1]


def last(model: nn.Module) -> str:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name != "aside"][-1]


def calibrated(model: nn.Module) -> suffice.Calibrated:
    return suffice.calibrate(model, labeled(), labeled(1), generator=seeded(), **builders.PAPER)


def estimator(model: nn.Module) -> suffice.VariationEstimator:
    options = {"layers": activation(model), "method": "ridge", "generator": seeded()}
    return suffice.fit_variation(model, [inputs()], [inputs(seed=1)], teacher=TEACHER, **options)


def buckets(model: nn.Module) -> Any:
    options = {"layers": activation(model), "epochs": 1, "generator": seeded(), "teacher": TEACHER}
    return suffice.fit_buckets(model, [inputs()], [inputs(seed=1)], **options)


OTHER = odd.build("sequential")


def no_preparation(model: nn.Module) -> None:
    return None


Prepare, Entry = Callable[[nn.Module], Any], Callable[[nn.Module, Any, Tensor], Any]

ENTRIES: dict[str, tuple[Prepare, Entry]] = {
    "calibrate": (no_preparation, lambda model, _, x: calibrated(model)(x)[-1].probs),
    "calibrated": (calibrated, lambda model, calibrated, x: calibrated(x)[-1].probs),
    "density": (no_preparation, lambda model, _, x: density.fit(model, labeled())(x)),
    "macs": (no_preparation, lambda model, _, x: cost.macs(model, x)),
    "capture": (no_preparation, lambda model, _, x: strengths.capture(model, x, activation(model))),
    "teacher": (no_preparation, lambda model, _, x: TEACHER(model, x, generator=seeded())["std"]),
    "ensemble": (no_preparation, lambda model, _, x: suffice.EnsembleTeacher([model, OTHER])(model, x)["std"]),
    "fit_variation": (no_preparation, lambda model, _, x: estimator(model)(x)),
    "estimator": (estimator, lambda model, estimator, x: estimator(x)),
    "cascade": (
        estimator,
        lambda model, estimator, x: estimator.cascade(x, when=lambda e: e.variation > 0, generator=seeded()).variation,
    ),
    "audit": (estimator, lambda model, estimator, x: estimator.audit(x, generator=seeded())),
    "fit_buckets": (no_preparation, lambda model, _, x: buckets(model)(x)),
    "buckets": (buckets, lambda model, estimator, x: estimator(x)),
}
"""Entry points by name: a function that prepares an object from the model, and one that runs both on inputs."""
