"""Rows to learn from: features of one ordinary pass, and what a teacher says of the same inputs."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor, nn

from suffice.network import check_finite
from suffice.twin import inference
from suffice.variation.features.reader import DeltaRule, Reader
from suffice.variation.features.strengths import Kind, layer_names
from suffice.variation.learning.labels import Labeled
from suffice.variation.teachers.dropout import MCDropout
from suffice.variation.teachers.spreads import LikelihoodName
from suffice.variation.teachers.teacher import Teacher


@dataclass(frozen=True)
class Rows:
    """Features and labels of examples.

    features: (N, F) float32.  widths: columns of the output, then of each layer.
    labels: (N, R) float32, what each of R runs of the teacher says, unbiased: deviations squared.
    passes: T of each run.
    """

    features: Tensor
    widths: tuple[int, ...]
    labels: Tensor
    passes: int

    def take(self, index: Tensor) -> "Rows":
        """The rows `index` (M,)."""
        return replace(self, features=self.features[index], labels=self.labels[index])

    def columns(self, layers: Sequence[int]) -> Tensor:
        """Columns, int64, of the output and of the layers with these numbers from 0."""
        starts = torch.tensor([0, *self.widths]).cumsum(0).tolist()
        return torch.cat([torch.arange(starts[g], starts[g + 1]) for g in [0, *(layer + 1 for layer in layers)]])


def reader(
    model: nn.Module,
    teacher: Teacher,
    layers: str | Sequence[str] | None,
    kind: Kind,
    delta: bool,
    likelihood: LikelihoodName,
) -> Reader:
    """What is to be read of a model.

    Raises:
        ValueError: for another kind, what `layer_names` refuses, or the delta rule for a teacher that is not dropout.
    """
    if kind not in ("value", "on", "both"):
        raise ValueError(f"expected strengths to be 'value', 'on' or 'both', got {kind!r}")
    names = layer_names(model, "all" if layers == "auto" else layers)
    if not delta:
        return Reader(names, kind, likelihood)
    if not isinstance(teacher, MCDropout):
        raise ValueError(f"expected MCDropout as the teacher for delta=True, got {type(teacher).__name__}")
    at = teacher.at if teacher.at is None or isinstance(teacher.at, str) else tuple(teacher.at)
    return Reader(names, kind, likelihood, DeltaRule(at, teacher.rate))


def batchwise(model: nn.Module, labels: Iterable[Labeled], reading: Reader) -> Iterator[Rows]:
    """Rows of each batch, checked.

    Raises:
        ValueError: for a feature that is not finite.
    """
    for own in labels:
        with inference(model) as twin:
            parts = reading.read(twin, own.batch.inputs)[1]
        features = torch.cat(parts, dim=1)
        check_finite(features, "outputs and activation strengths", own.batch.start)
        yield Rows(features, tuple(part.shape[1] for part in parts), own.labels, own.passes)


def collected(rows: Iterator[Rows]) -> Rows:
    """Those of all batches."""
    first = next(rows)
    everything = list(chain([first], rows))
    return replace(
        first,
        features=torch.cat([part.features for part in everything]),
        labels=torch.cat([part.labels for part in everything]),
    )


def mean_label(labels: Tensor, target: str) -> float:
    """Mean of labels (N, R) of training rows.

    Raises:
        ValueError: for fewer than two rows, or labels that are all zero.
    """
    if len(labels) < 2:
        raise ValueError(f"expected at least 2 training rows, got {len(labels)}; pass thousands of them")
    unit = float(labels.double().mean())
    if unit == 0:
        raise ValueError(
            f"expected labels {target!r} above zero, got zero for all {len(labels)} training rows; choose "
            "a teacher under which the predictions vary"
        )
    return unit


def halves(rows: Rows) -> tuple[Rows, Rows]:
    """Every other row: those that fitting stops and selects on, and those that the result is judged on.

    Raises:
        ValueError: for fewer than four rows.
    """
    n = len(rows.labels)
    if n < 4:
        raise ValueError(
            f"expected at least 4 validation rows, got {n}; half of them stop the fit, the other half judge it"
        )
    index = torch.arange(n, device=rows.labels.device)
    return rows.take(index[::2]), rows.take(index[1::2])
