"""Warnings of validation data and exits that can hardly be meant: untrained exits, and labels of other inputs."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from suffice.calibration.exits import CalibratedExit
from suffice.calibration.tuning.objective import Objective
from suffice.calibration.tuning.ranges import TunedValue

_LARGE = 10.0
"""Temperature, in the unit of the outputs, above which labels are compared with chance."""


def warn_if_implausible(exits: Sequence[CalibratedExit], objective: Objective, tuned: Sequence[TunedValue]) -> None:
    """Warn of exits with the same outputs for all inputs, and of labels that the outputs predict no better than chance.

    The warnings are attributed to the caller of a decorated public function that calls this one.

    Args:
        exits: Tuned exits.
        objective: Validation data at each exit; nothing is checked without them.
        tuned: Values that were tuned; labels are checked by a tuned temperature alone.
    """
    constant = [k for k, cache in enumerate(objective.caches) if _is_constant(cache.logits)]
    if constant:
        warnings.warn(
            f"expected outputs that differ between inputs, got the same for all {len(objective.targets)} validation "
            f"examples at exit {', '.join(map(str, constant))}; train new exits first, with suffice.training.train",
            stacklevel=4,
        )
    last = len(exits) - 1
    temperature = next((value.value for value in tuned if (value.exit, value.name) == (last, "temperature")), None)
    if temperature is None or last in constant or exits[-1].likelihood.name != "classification":
        return
    logits, targets = objective.caches[-1].logits, objective.targets
    if temperature <= _LARGE * exits[-1].likelihood.output_unit(logits):
        return
    nll = torch.nn.functional.cross_entropy(logits.double() / temperature, targets)
    if nll > _entropy(targets) - 1 / len(targets) ** 0.5:
        warnings.warn(
            f"expected labels that the outputs predict, got a temperature of {temperature:.3g} at the last exit, with "
            "which it predicts no better than the frequencies of the labels; check that inputs and labels belong "
            "together, and how classes are numbered",
            stacklevel=4,
        )


def _is_constant(outputs: Tensor) -> bool:
    """Return whether all of two or more rows are the same."""
    return len(outputs) > 1 and bool((outputs == outputs[:1]).all())


def _entropy(labels: Tensor) -> Tensor:
    """Return the entropy of the frequencies of labels (N,), in nats: the NLL of predicting them."""
    entropy: Tensor = torch.special.entr(torch.bincount(labels).double() / len(labels)).sum()
    return entropy
