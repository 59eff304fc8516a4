"""What a teacher says of training and validation rows: asked once, for any number of estimators to learn from."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from suffice import batches
from suffice.batches import Batch, Loader
from suffice.network import check_finite
from suffice.variation.teachers import spreads
from suffice.variation.teachers.spreads import LikelihoodName
from suffice.variation.teachers.teacher import Teacher


@dataclass(frozen=True)
class Labeled:
    """A batch, and what each of R runs of a teacher says of it.

    Attributes:
        batch: of inputs.
        labels: (N, R) float32, unbiased: deviations squared.
        passes: T of each run.
    """

    batch: Batch
    labels: Tensor
    passes: int


@dataclass(frozen=True)
class Labels:
    """What estimators of one variation learn from.

    Attributes:
        teacher: that was asked.
        target: which spread.
        likelihood: of the model's answers.
        train: batches, labelled once.
        validation: other batches, labelled twice.
    """

    teacher: Teacher
    target: str
    likelihood: LikelihoodName
    train: Iterable[Labeled]
    validation: Iterable[Labeled]

    def kept(self) -> "Labels":
        """The same in memory, to be read any number of times."""
        return replace(self, train=list(self.train), validation=list(self.validation))


def label(
    model: nn.Module,
    train_loader: Loader,
    val_loader: Loader,
    *,
    teacher: Teacher,
    target: str = "std",
    generator: torch.Generator | None = None,
) -> Labels:
    """Labels that are made as they are read, each loader once; arguments as for `fit_variation`.

    Raises:
        TypeError: as `check_asked`, and for a loader that iterates no batches.
        ValueError: for another target; when read, for an empty loader, and for a label that is not finite.
    """
    check_asked(model, teacher)
    batches.check_loader(train_loader)
    batches.check_loader(val_loader)
    spreads.power(target)
    likelihood, train_loader = likelihood_of(model, train_loader, teacher)
    train = each(model, train_loader, teacher, target, generator)
    validation = each(model, val_loader, teacher, target, generator, runs=2)
    return Labels(teacher, target, likelihood, train, validation)


def check_asked(model: object, teacher: object) -> None:
    """Raise a TypeError unless it is a model that is asked, and a teacher that can be asked."""
    if not isinstance(model, nn.Module):
        remedy = "pass its .network" if isinstance(getattr(model, "network", None), nn.Module) else "pass the model"
        raise TypeError(f"expected a model, an nn.Module, got {type(model).__name__}; {remedy}")
    check_teacher(teacher)


def check_teacher(teacher: object) -> None:
    """Raise a TypeError unless it is a teacher: an object to be called, and not its class."""
    if isinstance(teacher, type) or not callable(teacher):
        found = f"the class {teacher.__name__}" if isinstance(teacher, type) else repr(teacher)
        raise TypeError(f"expected a teacher such as suffice.MCDropout(passes=10), got {found}; make one")


def likelihood_of(model: nn.Module, loader: Loader, teacher: Teacher) -> tuple[LikelihoodName, Loader]:
    """What a teacher takes the outputs for, and the loader, from which nothing is lost."""
    stated: LikelihoodName | None = getattr(teacher, "likelihood", None)
    if stated is not None:
        return stated, loader
    first, loader = batches.peek(loader, model)
    return teacher(model, first.inputs, generator=torch.Generator().manual_seed(0)).likelihood, loader


def each(
    model: nn.Module,
    loader: Loader,
    teacher: Teacher,
    target: str,
    generator: torch.Generator | None,
    runs: int = 1,
) -> Iterator[Labeled]:
    """Batches of a loader, labelled.

    Raises:
        ValueError: for an empty loader, or a label that is not finite.
    """
    for batch in batches.read(loader, model):
        yield labeled(model, batch, teacher, target, generator, runs)


def labeled(
    model: nn.Module, batch: Batch, teacher: Teacher, target: str, generator: torch.Generator | None, runs: int
) -> Labeled:
    """A batch, labelled.

    Raises:
        ValueError: for a label that is not finite.
    """
    found, passes = [], 0
    for _ in range(runs):
        variation = teacher(model, batch.inputs, generator=generator)
        check_finite(variation[target], f"labels {target!r}", batch.start)
        found.append(variation[target].pow(spreads.power(target)).float())
        passes = variation.passes
    return Labeled(batch, torch.stack(found, dim=1), passes)
