"""Protocols of a teacher: a callable that measures the variation of predictions.

Every teacher has `__call__`. Two further protocols describe what some teachers can do besides: measure with another
number of passes (`RepeatableTeacher`), and name the dropout whose effect they measure (`DropoutTeacher`).
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from suffice.network import State
from suffice.variation.teachers.spreads import LikelihoodName, Variation


class Teacher(Protocol):
    """Callable that measures how predictions vary; an estimator learns what it returns."""

    def __call__(self, model: nn.Module, x: State, *, generator: torch.Generator | None = None) -> Variation:
        """Return the variation of the model's predictions for a batch x."""


@runtime_checkable
class RepeatableTeacher(Teacher, Protocol):
    """Teacher of independent passes whose number can be chosen."""

    def with_passes(self, passes: int) -> Teacher:
        """Return the same teacher with T = `passes` passes for each example."""


@runtime_checkable
class DropoutTeacher(Teacher, Protocol):
    """Teacher that drops units, so that approximations of dropout apply to it, such as the delta rule."""

    @property
    def rate(self) -> float | None:
        """Probability of dropping a unit; None for the rate of each dropout module."""

    @property
    def at(self) -> str | Sequence[str] | None:
        """Names or patterns of the modules that drop; None for the network's own dropout."""

    @property
    def likelihood(self) -> LikelihoodName:
        """Meaning of the model's outputs."""


def with_passes(teacher: Teacher, passes: int) -> Teacher:
    """Return a teacher with `passes` passes if it is a `RepeatableTeacher`, else the teacher itself."""
    return teacher.with_passes(passes) if isinstance(teacher, RepeatableTeacher) else teacher
