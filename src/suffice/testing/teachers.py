"""Rules of a teacher of the variation of predictions."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from suffice.network import State, placement, select
from suffice.testing.rules import (
    ModelRecord,
    check_batch,
    default_generator_unused,
    equal_nests,
    inputs_unchanged,
    obeying,
    orders,
    rows_of,
    violated,
)
from suffice.variation.teachers.spreads import LIKELIHOODS, Variation
from suffice.variation.teachers.teacher import RepeatableTeacher, Teacher

_FALSE_ALARM = 1e-9
"""Chance, for normal passes, that a mean measured twice differs by so much that a rule counts as violated."""


def check_teacher(teacher: Teacher, model: nn.Module, x: State, *, seed: int = 0) -> None:
    """Check that a teacher follows the rules on which estimators rely.

    - "returns a Variation": for (model, x, generator=…), with a mean (N, C) and named spreads (N,), all in float64 and
      finite, spreads not negative; for a classification the rows of the mean are probabilities;
    - "draws from the generator alone": the same seed returns the same bytes, and torch's default generator is left as
      it was;
    - "rows belong to their examples": measured in another order, in another batch or alone, an example has the same
      mean: up to rounding if the teacher draws no random numbers, else up to its sampling error at the stated spread
      "std" and number of passes (which finds nothing with few passes);
    - "has as many passes as chosen": `with_passes`, where there is one, returns such a teacher;
    - "leaves its inputs unchanged" and "leaves the model as it was" (weights, buffers, modes, hooks and gradients).

    Args:
        teacher: Teacher to check.
        model: Model whose predictions it measures; it is only read.
        x: Batch of N ≥ 2 different examples: a tensor or a nest of tensors, on the model's device.
        seed: Seed of the generators that the teacher is given.

    Raises:
        AssertionError: If a rule is violated; the message names it.
        ValueError: For fewer than 2 examples.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import suffice
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
        >>> suffice.testing.check_teacher(suffice.MCDropout(passes=10), model, torch.randn(6, 4))
        >>> class Unseeded(suffice.MCDropout):
        ...     def __call__(self, model, x, *, generator=None):
        ...         return super().__call__(model, x)
        >>> suffice.testing.check_teacher(Unseeded(passes=10), model, torch.randn(6, 4))
        Traceback (most recent call last):
        AssertionError: rule 'draws from the generator alone': expected the same variation again ...
    """
    size = check_batch(x)
    record = ModelRecord.of(model)
    with default_generator_unused("the teacher"), inputs_unchanged("the batch", x):
        first = _measure(teacher, model, x, seed, size)
        if not _equal(first, _measure(teacher, model, x, seed, size)):
            violated("draws from the generator alone", "the same variation again for the same seed", "another")
        draws = not _equal(first, _measure(teacher, model, x, seed + 1, size))
        for how, rows in orders(size).items():
            again = _measure(teacher, model, select(x, rows), seed + 2, len(rows))
            if draws:
                _check_sampled_rows(first, again, rows, how)
            else:
                _check_equal_rows(first, again, rows, how, torch.finfo(placement(model)[1]).eps ** 0.5)
        if isinstance(teacher, RepeatableTeacher):
            _check_passes(teacher, model, x, seed, size)
    record.check(model)


def _measure(teacher: Teacher, model: nn.Module, x: State, seed: int, size: int) -> Variation:
    """Return the variation of a batch, and raise an AssertionError unless it is of the expected form."""
    rule = "returns a Variation"
    with obeying(rule):
        found: Any = teacher(model, x, generator=torch.Generator().manual_seed(seed))
    if not isinstance(found, Variation):
        violated(rule, "a suffice.Variation", type(found).__name__)
    if found.likelihood not in LIKELIHOODS:
        violated(rule, f"a likelihood, one of {LIKELIHOODS}", repr(found.likelihood))
    if isinstance(found.passes, bool) or not isinstance(found.passes, int) or found.passes < 1:
        violated(rule, "a number of passes of at least 1", repr(found.passes))
    _check_numbers(found.mean, "mean", size, ndim=2)
    if found.likelihood == "classification":
        _check_probabilities(found.mean)
    if not isinstance(found.spreads, Mapping) or not found.spreads:
        violated(rule, "named spreads, a mapping", repr(found.spreads))
    for name, spread in found.spreads.items():
        _check_numbers(spread, f"spread {name!r}", size, ndim=1)
        if bool((spread < 0).any()):
            violated(rule, f"a spread {name!r} of at least 0", f"{float(spread.min()):g}")
    return found


def _check_numbers(values: object, name: str, size: int, ndim: int) -> None:
    """Raise an AssertionError unless values are a finite float64 tensor with one row per example."""
    rule, shape = "returns a Variation", f"({size},)" if ndim == 1 else f"({size}, C)"
    if not isinstance(values, Tensor) or values.ndim != ndim or len(values) != size:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        violated(rule, f"a {name} of shape {shape}", got)
    if values.dtype != torch.float64:
        violated(rule, f"a {name} in torch.float64", values.dtype)
    if not bool(values.isfinite().all()):
        violated(rule, f"a finite {name}", "NaN or infinity")


def _check_probabilities(mean: Tensor) -> None:
    """Raise an AssertionError unless the rows of a mean are probabilities up to the rounding of float32."""
    error = float((mean.sum(dim=1) - 1).abs().max())
    if mean.shape[1] < 2 or float(mean.min()) < 0 or error > mean.shape[1] * torch.finfo(torch.float32).eps:
        violated(
            "returns a Variation", "probabilities as the mean of a classification", f"rows with a sum {error:g} from 1"
        )


def _equal(a: Variation, b: Variation) -> bool:
    return equal_nests((a.mean, dict(a.spreads), a.passes), (b.mean, dict(b.spreads), b.passes))


def _check_equal_rows(whole: Variation, again: Variation, rows: Tensor, how: str, tolerance: float) -> None:
    """Raise an AssertionError if examples have another mean or spread than before, measured without random numbers."""
    pairs = {"mean": (whole.mean, again.mean)}
    pairs |= {f"spread {name!r}": (spread, again[name]) for name, spread in whole.spreads.items()}
    for name, (before, got) in pairs.items():
        scale = float(before.abs().max() + whole.mean.abs().max())  # a spread is rounded as the outputs are
        if float((rows_of(before, rows) - got).abs().max()) > tolerance * scale:
            violated("rows belong to their examples", f"the same {name} for the examples {how}", "another")


def _check_sampled_rows(whole: Variation, again: Variation, rows: Tensor, how: str) -> None:
    """Raise an AssertionError if the means of examples differ from those before by more than their sampling error."""
    deviation, repeated = _deviation(whole), _deviation(again)
    if deviation is None or repeated is None or whole.passes < 2:
        return
    expected = rows_of(whole.mean, rows)
    limit = _limit(whole.passes) * (rows_of(deviation, rows).square() + repeated.square()).sqrt()
    rounding = torch.finfo(torch.float32).eps ** 0.5 * expected.abs().amax(dim=1)
    if bool(((expected - again.mean).abs().amax(dim=1) > limit + rounding).any()):
        violated(
            "rows belong to their examples",
            f"the same mean for the examples {how}, up to its sampling error",
            "another",
        )


def _deviation(variation: Variation) -> Tensor | None:
    """Return an upper bound (N,) of the standard deviation over passes of every class or output, or None."""
    name = "std_mean" if "std_mean" in variation.spreads else "std"
    if name not in variation.spreads:
        return None
    return variation[name] * math.sqrt(variation.mean.shape[1])


def _limit(passes: int) -> float:
    """Return how many standard deviations over passes two means over passes may differ."""
    from scipy.stats import t

    return float(t.isf(_FALSE_ALARM, passes - 1)) / math.sqrt(passes)


def _check_passes(teacher: RepeatableTeacher, model: nn.Module, x: State, seed: int, size: int) -> None:
    """Raise an AssertionError if a teacher with another number of passes does not have it."""
    rule, wanted = "has as many passes as chosen", 3
    with obeying(rule):
        repeated = teacher.with_passes(wanted)
    passes = _measure(repeated, model, x, seed, size).passes
    if passes != wanted:
        violated(rule, f"{wanted} passes by with_passes({wanted})", passes)
