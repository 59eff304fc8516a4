"""Rows to learn from: features of one deterministic forward pass, and a teacher's labels of the same inputs."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor, nn

from suffice.attach.tokens.masks import TokenMask
from suffice.attach.tokens.reading import UnmarkedError, mask_of
from suffice.network import State, check_finite
from suffice.twin import inference
from suffice.variation.baselines.head import find_head
from suffice.variation.baselines.head_layers import Head
from suffice.variation.features.reader import MARGINS, DeltaRule, Reader
from suffice.variation.features.strengths import Kind, layer_names
from suffice.variation.learning.labels import Labeled
from suffice.variation.learning.repeats import keys_of
from suffice.variation.learning.target import Target
from suffice.variation.teachers.simplex import check_logits
from suffice.variation.teachers.spreads import LikelihoodName, output_matrix
from suffice.variation.teachers.teacher import DropoutTeacher, Teacher


@dataclass(frozen=True)
class Rows:
    """Features and labels of N examples.

    Attributes:
        features: Features, (N, F) float32.
        widths: Number of columns of the output's features, then of each layer's strengths.
        labels: Labels from each of R runs of the teacher, (N, R) float32: spreads to the power of the target.
        passes: Number T of passes of each run.
        leading: Number of groups of columns that describe the output: its features, and the margins if they are read.
        keys: Hash of each input, (N,) int64 on the CPU, for `repeats`; None if they are not compared.
    """

    features: Tensor
    widths: tuple[int, ...]
    labels: Tensor
    passes: int
    leading: int = 1
    keys: Tensor | None = None

    def output_width(self, layers: Sequence[int] | None = None) -> int:
        """Return the number of columns that describe the output, where layers at some positions are read, or all."""
        described = range(self.leading - 1)
        return self.widths[0] + sum(self.widths[1 + i] for i in described if layers is None or i in layers)

    def take(self, index: Tensor) -> "Rows":
        """Select the rows `index` (M,)."""
        keys = None if self.keys is None else self.keys[index.cpu()]
        return replace(self, features=self.features[index], labels=self.labels[index], keys=keys)

    def columns(self, layers: Sequence[int]) -> Tensor:
        """Return the column indices, int64, of the output's features and of the layers with the given positions."""
        starts = torch.tensor([0, *self.widths]).cumsum(0).tolist()
        return torch.cat([torch.arange(starts[g], starts[g + 1]) for g in [0, *(layer + 1 for layer in layers)]])


def make_reader(
    model: nn.Module,
    example: State,
    teacher: Teacher,
    layers: str | Sequence[str] | None,
    kind: Kind,
    delta: bool,
    likelihood: LikelihoodName,
) -> Reader:
    """Return the reader of a model's features; arguments as for `fit_variation`, with a batch of inputs as example.

    Raises:
        ValueError: For another kind of strengths, for layers that `layer_names` rejects, for a model whose padding no
            input marks, for margins of a model that `find_head` rejects, or for margins or the delta rule with a
            teacher that is not dropout.
    """
    check_kind(kind)
    head, layers = _head(model, example, teacher, layers, likelihood)
    names = layer_names(model, example, layers)
    mask = _mask(model, example) if names else None
    rule = None
    if delta:
        dropout = _dropout(teacher, "delta=True")
        rule = DeltaRule(dropout.at, dropout.rate)
    return Reader(names if head is None else (MARGINS, *names), kind, likelihood, rule, mask, head)


def _head(
    model: nn.Module,
    example: State,
    teacher: Teacher,
    layers: str | Sequence[str] | None,
    likelihood: LikelihoodName,
) -> tuple[Head | None, str | Sequence[str] | None]:
    """Return the head if its margins are read, and the choice of the other layers, which is "all" for "auto".

    With "auto" margins are left out where they do not apply.
    """
    patterns = [layers] if isinstance(layers, str) else list(layers or ())
    if layers != "auto" and MARGINS not in patterns:
        return None, layers
    others = "all" if layers == "auto" else [pattern for pattern in patterns if pattern != MARGINS]
    try:
        dropout = _dropout(teacher, f"layers={[MARGINS]}")
        return find_head(model, example, dropout.at, dropout.rate, likelihood), others
    except (TypeError, ValueError):
        if layers != "auto":
            raise
        return None, others


def _dropout(teacher: Teacher, purpose: str) -> DropoutTeacher:
    """Return the teacher if it is dropout, else raise a ValueError."""
    if not isinstance(teacher, DropoutTeacher):
        raise ValueError(f"expected MCDropout as the teacher for {purpose}, got {type(teacher).__name__}")
    return teacher


def _mask(model: nn.Module, example: State) -> TokenMask | None:
    """Return the mask of the model's tokens, or raise a ValueError if padding cannot be told from them."""
    try:
        return mask_of(model, example)
    except UnmarkedError as error:
        raise ValueError(
            f"expected a model whose padding an input marks, got {error}; pass layers=[] to read the output alone"
        ) from error


def check_kind(kind: str) -> None:
    """Raise a ValueError for another kind of strengths."""
    if kind not in ("value", "on", "both"):
        raise ValueError(f"expected strengths to be 'value', 'on' or 'both', got {kind!r}")


def read_rows(model: nn.Module, labels: Iterable[Labeled], reader: Reader) -> Iterator[Rows]:
    """Yield the rows of each labeled batch.

    Raises:
        ValueError: For a feature that is not finite, or class probabilities in place of logits.
    """
    for labeled in labels:
        with inference(model) as twin:
            output, parts = reader.read(twin, labeled.batch.inputs)
        features = torch.cat(parts, dim=1)
        check_finite(features, "outputs and activation strengths", labeled.batch.start)
        if reader.likelihood == "classification":
            check_logits(output_matrix(output, reader.likelihood))
        widths = tuple(part.shape[1] for part in parts)
        keys = keys_of(labeled.batch.inputs)
        yield Rows(features, widths, labeled.labels, labeled.passes, reader.leading, keys)


def concatenate(rows: Iterator[Rows]) -> Rows:
    """Concatenate the rows of all batches, of which there is at least one."""
    first = next(rows)
    parts = list(chain([first], rows))
    keys = [part.keys for part in parts if part.keys is not None]
    return replace(
        first,
        features=torch.cat([part.features for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        keys=torch.cat(keys) if keys else None,
    )


def mean_label(labels: Tensor, target: Target) -> float:
    """Return the mean of the labels (N, R) of training rows.

    Raises:
        ValueError: For fewer than two rows, or labels that are all zero.
    """
    if len(labels) < 2:
        raise ValueError(f"expected at least 2 training rows, got {len(labels)}; pass thousands of them")
    unit = float(labels.double().mean())
    if unit == 0:
        raise ValueError(
            f"expected labels {target.name!r} above zero, got zero for all {len(labels)} training rows; choose "
            "a teacher under which the predictions vary"
        )
    return unit


def halves(rows: Rows) -> tuple[Rows, Rows]:
    """Split validation rows alternately.

    Returns:
        Rows for early stopping and selection, and held-out rows for evaluation.

    Raises:
        ValueError: For fewer than four rows.
    """
    n = len(rows.labels)
    if n < 4:
        raise ValueError(
            f"expected at least 4 validation rows, got {n}; half of them stop the fit, the other half evaluate it"
        )
    index = torch.arange(n, device=rows.labels.device)
    return rows.take(index[::2]), rows.take(index[1::2])
