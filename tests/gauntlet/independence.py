"""The property of every answer: it depends on its example alone, not on companions, order or padding.

A family's own model may depend on padding (one that has no mask, such as FNet). Each kind of padding is therefore tried
on the model first, and then on the library's answers where the model's own stay the same. Companions and order may
change nothing in any case.

Tolerances. Kernels round differently for different batch sizes. Probabilities agree to 1e-5, the stated accuracy of
`suffice.run`, or, where a model is so deep that its logits have a rounding error r near that, to 2r/T for the smallest
temperature T below 1: a probability changes by at most half the change of the logits, two answers have an error each,
and r, which is measured against float64 on single examples, may be twice as large in a batch. The
logarithm of a variation agrees to half of the digits of float32, as its features are divided by their spread over the
fitting rows, which amplifies rounding.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from suffice.network import call, placement
from suffice.utils.nest import tree_map_only
from tests.gauntlet.family import Family, logits_of
from tests.gauntlet.inputs import Example
from tests.gauntlet.outcomes import WrongAnswerError

PROBABILITIES = 1e-5
POWER = 10
"""Least ratio of the differences between examples to the tolerance; a smaller one could not show a dependence."""


@dataclass(frozen=True)
class Answers:
    """Answers of N examples.

    Attributes:
        values: Numbers (N, F) to compare.
        exit: Exits (N,); None if there is no choice of one.
        near: Whether a score is so near its threshold that rounding may decide, (N,) bool.
    """

    values: Tensor
    exit: Tensor | None = None
    near: Tensor | None = None


@dataclass(frozen=True)
class Company:
    """One way to answer examples.

    Attributes:
        name: Name in messages.
        rows: Which examples, in which order.
        right: Padding on the right, beyond that of the longest.
        left: Padding on the left.
        padded: Whether there is any padding, which the model's own answers may depend on.
    """

    name: str
    rows: tuple[int, ...]
    right: int = 0
    left: int = 0
    padded: bool = True


def companies(family: Family, count: int) -> Iterator[Company]:
    """Yield the ways to answer `count` examples; those with padding only for inputs that have a length."""
    step = len(family.inputs.lengths)
    for start in range(step):
        rows = tuple(range(start, count, step))
        yield Company("with companions of the same length", rows, padded=False)
        yield Company("in another order", rows[::-1], padded=False)
    if not family.inputs.padding:
        return
    yield Company("with longer companions", tuple(range(count)))
    yield Company("with longer companions, in another order", tuple(reversed(range(count))))
    yield Company("with padding", tuple(range(count)), right=2)
    yield Company("with three times as much padding as text", tuple(range(count)), right=30)
    yield Company("alone with padding", (0,), right=5)
    yield Company("with padding on the left", tuple(range(count)), left=3)
    yield Company("with padding on both sides", tuple(range(count)), right=4, left=1)


@dataclass(frozen=True)
class Independence:
    """Check of the property for one family.

    Args:
        family: Family.
        model: Its model.
        tested: Examples to answer.
        answering: Network with exits whose answers are checked, if not the model itself; its rounding counts.
        sharpening: Factor by which temperatures amplify rounding.
    """

    family: Family
    model: nn.Module
    tested: Sequence[Example]
    answering: nn.Module | None = None
    sharpening: float = 1.0

    def check(self, answer: Callable[[Any], Answers]) -> None:
        """Compare the answers of one function in every company that the model's own answers do not depend on."""
        alone = [answer(self._batch(Company("alone", (i,), padded=False))) for i in range(len(self.tested))]
        check_power(alone, self._tolerance(alone[0]))
        for company in self.harmless():
            self._compare(answer(self._batch(company)), alone, company)

    def check_stream(self, answer: Callable[[list[Any]], list[Answers]]) -> None:
        """Compare the answers of a function of many batches, which it may regroup."""
        alone = [answer([self._batch(Company("alone", (i,), padded=False))])[0] for i in range(len(self.tested))]
        mixed = self.harmless()
        for company, got in zip(mixed, answer([self._batch(company) for company in mixed]), strict=True):
            self._compare(got, alone, company)

    def harmless(self) -> list[Company]:
        """Return the companies, but for those with padding that the model's own answers depend on."""
        return [company for company in companies(self.family, len(self.tested)) if self._is_harmless(company)]

    def sensitive(self) -> tuple[str, ...]:
        """Return the kinds of padding that the model's own answers do depend on."""
        harmful = [company for company in companies(self.family, len(self.tested)) if not self._is_harmless(company)]
        kinds = {"padding on the left": lambda c: c.left, "padding": lambda c: not c.left}
        return tuple(kind for kind, belongs in kinds.items() if any(map(belongs, harmful)))

    def _is_harmless(self, company: Company) -> bool:
        if not company.padded:
            return True
        try:
            together = self._own(company)
        except Exception as error:  # a text longer than the model takes, for example
            del error
            return False
        alone = torch.cat([self._own(Company("alone", (i,), padded=False)) for i in company.rows])
        return bool((together - alone).abs().max() <= PROBABILITIES)

    @torch.no_grad()
    def _own(self, company: Company) -> Tensor:
        return logits_of(call(self.model, self._batch(company))).softmax(dim=1)

    def _batch(self, company: Company) -> Any:
        rows = [self.tested[i] for i in company.rows]
        batch = self.family.inputs.batch(rows, right=company.right, left=company.left)
        dtype = placement(self.model)[1]
        return tree_map_only(Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t, batch)

    def _tolerance(self, answers: Answers) -> float:
        if answers.values.shape[1] == 1:
            return float(torch.finfo(answers.values.dtype).eps ** 0.5)
        return max(PROBABILITIES, 2 * self._rounding * self.sharpening)

    @cached_property
    def _rounding(self) -> float:
        """Rounding error of the logits of the model, or of the exits that answer."""
        company = Company("alone", (0,), padded=False)
        answering = self.model if self.answering is None else self.answering
        exact = Independence(self.family, copy.deepcopy(self.model).double(), self.tested)
        exactly = copy.deepcopy(answering).double()
        alone = [replace(company, rows=(i,)) for i in range(len(self.tested))]
        try:
            errors = [_logits(answering, self._batch(c)) - _logits(exactly, exact._batch(c)) for c in alone]
        except RuntimeError:  # a kernel without float64
            return 0.0
        return float(torch.cat(errors).abs().max())

    def _compare(self, got: Answers, alone: Sequence[Answers], company: Company) -> None:
        tolerance = self._tolerance(got)
        for row, i in enumerate(company.rows):
            expected = alone[i]
            if expected.exit is not None and expected.near is not None and got.exit is not None:
                if bool(expected.near.any()):
                    continue
                if int(expected.exit) != int(got.exit[row]):
                    raise WrongAnswerError(
                        f"expected example {i} to stop at exit {int(expected.exit)} {company.name} as it does alone, "
                        f"got exit {int(got.exit[row])}"
                    )
            difference = float((got.values[row] - expected.values[0]).abs().max())
            if not difference <= tolerance:
                raise WrongAnswerError(
                    f"expected the same answer for example {i} {company.name} as alone, got {difference:.3g} off"
                )


@torch.no_grad()
def _logits(network: nn.Module, batch: Any) -> Tensor:
    """Return the logits of a model, or of all exits of a network, one after another."""
    outputs = call(network, batch)
    outputs = outputs if isinstance(outputs, list) else [logits_of(outputs)]
    return torch.cat([logits.double() for logits in outputs])


def check_power(alone: Sequence[Answers], tolerance: float) -> None:
    """Raise an AssertionError unless the answers of different examples differ by far more than the tolerance."""
    values = torch.cat([answers.values for answers in alone])
    spread = (values.amax(dim=0) - values.amin(dim=0)).min()
    assert spread >= POWER * tolerance, f"the answers differ by {float(spread):.3g} only: no dependence could be seen"
