"""Labels of training and validation rows from a teacher, which any number of estimators can learn from."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from suffice import batches
from suffice.attach.determinism import check_deterministic
from suffice.batches import Batch, Loader
from suffice.inputs import noted
from suffice.network import State, check_finite
from suffice.utils.arguments import optional_generator
from suffice.variation.learning.target import Target
from suffice.variation.teachers.spreads import LikelihoodName
from suffice.variation.teachers.teacher import Teacher


@dataclass(frozen=True)
class Labeled:
    """Batch with its labels from R independent runs of a teacher.

    Attributes:
        batch: Batch of inputs.
        labels: Spreads to the power of the target, which makes them unbiased, (N, R) float32.
        passes: Number T of passes of each run.
    """

    batch: Batch
    labels: Tensor
    passes: int


@dataclass(frozen=True)
class Labels:
    """Labeled batches that estimators of one spread learn from.

    Attributes:
        teacher: Teacher of the labels.
        target: Spread to learn.
        likelihood: Meaning of the model's outputs.
        example: Inputs of the first training batch.
        train: Batches, labeled once.
        validation: Other batches, labeled twice.
    """

    teacher: Teacher
    target: Target
    likelihood: LikelihoodName
    example: State
    train: Iterable[Labeled]
    validation: Iterable[Labeled]

    def in_memory(self) -> "Labels":
        """Return the labels in memory, so that they can be read any number of times."""
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
    """Return labels that are computed as they are read, each loader once; arguments as for `fit_variation`.

    Raises:
        TypeError: As `check_model_and_teacher`, and for a loader that does not iterate batches.
        ValueError: For another target, an empty training loader, and a model that is not deterministic in evaluation
            mode; on reading, for an empty validation loader and for a label that is not finite.
    """
    check_model_and_teacher(model, teacher)
    optional_generator(generator)
    batches.check_loader(train_loader)
    batches.check_loader(val_loader)
    spread = Target(target)
    likelihood, example, train_loader = examine(model, train_loader, teacher)
    train = label_batches(model, train_loader, teacher, spread, generator)
    validation = label_batches(model, val_loader, teacher, spread, generator, runs=2)
    return Labels(teacher, spread, likelihood, example, train, validation)


def check_model_and_teacher(model: object, teacher: object) -> None:
    """Raise a TypeError unless `model` is a module and `teacher` an instance of a teacher."""
    if not isinstance(model, nn.Module):
        remedy = "pass its .network" if isinstance(getattr(model, "network", None), nn.Module) else "pass the model"
        raise TypeError(f"expected a model, an nn.Module, got {type(model).__name__}; {remedy}")
    check_teacher(teacher)


def check_teacher(teacher: object) -> None:
    """Raise a TypeError unless `teacher` is a callable and not a class."""
    if isinstance(teacher, type) or not callable(teacher):
        value = f"the class {teacher.__name__}" if isinstance(teacher, type) else repr(teacher)
        raise TypeError(f"expected a teacher such as suffice.MCDropout(passes=10), got {value}; make one")


def examine(model: nn.Module, loader: Loader, teacher: Teacher) -> tuple[LikelihoodName, State, Loader]:
    """Check a model on the first batch of a loader.

    Returns:
        The likelihood of the teacher, which is run on that batch if it has no attribute `likelihood`; the inputs of the
        batch; and a loader that still has all batches.

    Raises:
        ValueError: If the loader is empty, or the model is not deterministic in evaluation mode.
    """
    first, loader = batches.peek(loader, model)
    with noted(first.inputs):
        check_deterministic(model, first.inputs)
    likelihood: LikelihoodName | None = getattr(teacher, "likelihood", None)
    if likelihood is None:
        likelihood = teacher(model, first.inputs, generator=torch.Generator().manual_seed(0)).likelihood
    return likelihood, first.inputs, loader


def label_batches(
    model: nn.Module,
    loader: Loader,
    teacher: Teacher,
    target: Target,
    generator: torch.Generator | None,
    runs: int = 1,
) -> Iterator[Labeled]:
    """Label the batches of a loader, by R = `runs` runs of the teacher.

    Raises:
        ValueError: For an empty loader, or a label that is not finite.
    """
    for batch in batches.read(loader, model):
        yield label_batch(model, batch, teacher, target, generator, runs)


def label_batch(
    model: nn.Module, batch: Batch, teacher: Teacher, target: Target, generator: torch.Generator | None, runs: int
) -> Labeled:
    """Label one batch, by R = `runs` runs of the teacher.

    Raises:
        ValueError: For a label that is not finite.
    """
    columns, passes = [], 0
    for _ in range(runs):
        variation = teacher(model, batch.inputs, generator=generator)
        spread = variation[target.name]
        check_finite(spread, f"labels {target.name!r}", batch.start)
        columns.append(spread.pow(target.power).float())
        passes = variation.passes
    return Labeled(batch, torch.stack(columns, dim=1), passes)
