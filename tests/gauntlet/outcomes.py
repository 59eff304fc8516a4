"""Outcomes of the families: bit for bit, refused by name, or a fault."""

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

import suffice

_SOURCES = [Path(suffice.__file__).parent, Path(__file__).parents[2] / "runtime"]


class WrongAnswerError(Exception):
    """Wrong answer of the library."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of one job of a family.

    Attributes:
        result: What came out; all but a fault are right. "Up to rounding" is bit for bit but for the product with the
            classifier, which the model computes for all positions and a network for those that are selected.
        step: First step that refused or failed; empty if all steps ran.
        text: Message of the refusal, or the ends of the tracebacks of all faults.
    """

    result: Literal["bit for bit", "up to rounding", "refused", "fault"]
    step: str = ""
    text: str = ""

    @property
    def reason(self) -> str:
        """First sentence of a refusal: what was expected, and what was got."""
        return self.text.partition("; ")[0]

    @property
    def remedy(self) -> str:
        """What a refusal advises."""
        return self.text.partition("; ")[2]


class _StopError(Exception):
    """Signal that a step failed which the later ones need."""


class Job:
    """Steps of one job and the errors that they raised, each in its own time.

    A job is a context: it ends quietly after a failed step. Warnings are third parties' own, and torch's default
    generator is given back as it was.
    """

    def __init__(self) -> None:
        self.errors: list[tuple[str, Exception]] = []
        self.rounded = False

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Run a step that the later ones need."""
        with self.check(name):
            yield
        if self.errors and self.errors[-1][0] == name:
            raise _StopError

    @contextmanager
    def check(self, name: str) -> Iterator[None]:
        """Run a step whose failure the later ones survive."""
        try:
            yield
        except _StopError:
            raise
        except Exception as error:  # whatever comes out of the library is what is looked for
            self.errors.append((name, error))

    @contextmanager
    def running(self) -> Iterator["Job"]:
        """Run the steps within."""
        with warnings.catch_warnings(), torch.random.fork_rng(), suppress(_StopError):
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            yield self

    @property
    def outcome(self) -> Outcome:
        """What came out: a fault if there is one, else a refusal if there is one."""
        faults = [(name, error) for name, error in self.errors if not is_refusal(error)]
        if faults:
            return Outcome("fault", faults[0][0], "\n".join(f"[{name}] {_ending(error)}" for name, error in faults))
        if self.errors:
            name, error = self.errors[0]
            return Outcome("refused", name, " ".join(str(error).split()))
        return Outcome("up to rounding" if self.rounded else "bit for bit")


def _ending(error: Exception) -> str:
    return str(error) if isinstance(error, WrongAnswerError) else "".join(traceback.format_exception(error)[-4:])


def is_refusal(error: Exception) -> bool:
    """Return whether the library raised an error by itself: a value, type or memory error, in the words of its own."""
    if type(error) not in (ValueError, TypeError, MemoryError) or not str(error).startswith("expected "):
        return False
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return any(map(Path(frame.f_code.co_filename).is_relative_to, _SOURCES))
