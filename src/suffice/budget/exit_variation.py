"""Dropout variation of each exit as a score for policies.

At exit k a small network reads what is computed there anyway, the prediction and the activation strengths of the state
behind stage k, and estimates how much dropout up to there would vary that exit's own output. A policy that stops on it
has no other cost. The labels are those of a teacher on the network truncated behind exit k.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from suffice import batches
from suffice.batches import Loader
from suffice.budget import walk
from suffice.budget.scores import Score
from suffice.calibration.calibrated import Calibrated
from suffice.network import ExitNetwork, State, check_finite
from suffice.prediction import AnyPrediction
from suffice.storage.parts import Parts, numbered
from suffice.utils.modes import default_modes
from suffice.utils.nest import tree_leaves
from suffice.variation.features.reader import output_features
from suffice.variation.features.strengths import summary
from suffice.variation.learning import objective, rows
from suffice.variation.learning.fitted_mlp import FittedMLP
from suffice.variation.learning.labels import Labeled, check_teacher, label_batch
from suffice.variation.learning.repeats import keys_of, warn_if_repeated
from suffice.variation.learning.rows import Rows
from suffice.variation.learning.target import Target
from suffice.variation.teachers.teacher import Teacher


@dataclass(frozen=True, eq=False)
class VariationScore:
    """Negative estimated variation at each exit, made by `fit_exit_variation` and saved with its policy.

    Attributes:
        made_for: Digest of the calibrated network.
        fits: Fit of each exit to a spread of its own output.
        r_squared: Noise-corrected R² of each exit on held-out validation rows.
    """

    made_for: str = field(repr=False)
    fits: tuple[FittedMLP, ...] = field(repr=False)
    r_squared: tuple[float, ...]

    @property
    def target(self) -> str:
        """Name of the spread that is estimated at each exit."""
        return self.fits[0].target.name

    @property
    def macs(self) -> tuple[int, ...]:
        """Multiply-adds per example at each exit, beyond those of the network and its uncertainty."""
        return tuple(fit.macs for fit in self.fits)

    def at(self, k: int) -> Score:
        """Return the score of exit k, `(prediction, state) -> (N,)`."""
        return lambda prediction, state: -self.variation(k, prediction, state)

    @torch.no_grad()
    def variation(self, k: int, prediction: AnyPrediction, state: State) -> Tensor:
        """Estimate the spread (N,) at exit k, float32.

        Args:
            k: Number of the exit, counted from 0.
            prediction: Prediction of exit k for N examples.
            state: State behind stage k.
        """
        features = torch.cat(_features(prediction, state), dim=1)
        return self.fits[k].to(features.device)(features)

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the configuration and the tensors of an artifact."""
        exits, tensors = numbered("exit", [fit.parts() for fit in self.fits])
        return {
            "made_for": self.made_for,
            "exits": exits,
            "r_squared": self.r_squared,
        }, tensors

    @classmethod
    def from_parts(cls, parts: Parts) -> "VariationScore":
        """Restore a score from its `parts`."""
        fits = tuple(map(FittedMLP.from_parts, parts.each("exits", "exit")))
        if len(fits) != parts.sizes.setdefault("K", len(fits)) or len({fit.target for fit in fits}) != 1:
            targets = [fit.target.name for fit in fits]
            parts.refuse("exits", f"{parts.sizes['K']}, one for each exit, of one target", targets)
        return cls(parts.digest("made_for"), fits, tuple(parts.numbers("r_squared", len(fits), also=(math.nan,))))


@default_modes()
def fit_exit_variation(
    calibrated: Calibrated,
    train_loader: Loader,
    val_loader: Loader,
    *,
    teacher: Teacher,
    target: str = "std",
    hidden: Sequence[int] = (64, 64),
    epochs: int = 40,
    generator: torch.Generator | None = None,
) -> VariationScore:
    """Fit a score for policies: an estimate of the variation under `teacher` at every exit of a calibrated network.

    Args:
        calibrated: Calibrated network. At each exit the teacher is applied to the network up to there.
        train_loader: Batches of inputs like those in use; read once, labels not needed.
        val_loader: Batches of other inputs, on which the teacher runs twice. Half of the rows decide when to stop the
            fit, the other half measure R².
        teacher: Teacher such as `MCDropout(passes=10)`. It runs at every exit.
        target: Name of a spread, as for `fit_variation`.
        hidden: Widths of the small networks' hidden layers.
        epochs: Greatest number of passes over the training rows.
        generator: Random generator of teacher and fits; the same state gives the same bytes.

    Raises:
        TypeError: For a network that is not calibrated, and wherever `fit_variation` raises one.
        ValueError: Wherever `fit_variation` raises one, with the exit named, and if no dropout precedes an exit, such
            as the first.

    Example:
        >>> import torch
        >>> import suffice
        >>> x, teacher = torch.rand(200, 1, 8, 8), suffice.MCDropout(passes=4)
        >>> network = suffice.models.convnet(num_classes=3, widths=(4, 8), dropout=0.2)
        >>> loader = [(x, torch.arange(200) % 3)]
        >>> calibrated = suffice.calibrate(network, None, loader, structure=None, temperature=False)
        >>> score = suffice.fit_exit_variation(calibrated, [x[:100]], [x[100:]], teacher=teacher, epochs=1)
        >>> suffice.allocate(calibrated, [x], budget=0.9, score=score).score is score
        True
    """
    walk.check_calibrated(calibrated)
    check_teacher(teacher)
    batches.check_loader(val_loader)
    spread = Target(target)
    train_rows = _rows(calibrated, train_loader, teacher, spread, generator, runs=1)
    val_rows = _rows(calibrated, val_loader, teacher, spread, generator, runs=2)
    _warn_of_rows(train_rows[0], val_rows[0])
    fits, r_squared = [], []
    for train, validation in zip(train_rows, val_rows, strict=True):
        stopping, held_out = rows.halves(validation)
        fit = objective.fit_rows(train, stopping, spread, hidden, epochs, generator)
        fits.append(fit)
        r_squared.append(objective.r_squared(fit(held_out.features), held_out, spread))
    _warn_of_quality(r_squared)
    return VariationScore(calibrated.digest, tuple(fits), tuple(r_squared))


def _warn_of_rows(train: Rows, validation: Rows) -> None:
    """Warn the caller of `fit_exit_variation` of validation rows that are training rows."""
    if train.keys is not None and validation.keys is not None:
        warn_if_repeated(train.keys, validation.keys, stacklevel=4)


def _warn_of_quality(r_squared: Sequence[float]) -> None:
    """Warn the caller of `fit_exit_variation` of exits whose R² is below zero or NaN."""
    poor = {k: value for k, value in enumerate(r_squared) if not value >= 0}
    if poor:
        values = ", ".join(f"{value:.3g} at exit {k}" for k, value in poor.items())
        warnings.warn(
            f"expected estimates closer to the spreads than their mean is, got an R² of {values}; pass more rows for "
            "training and validation, or a teacher with more passes",
            stacklevel=4,
        )


def _rows(
    calibrated: Calibrated,
    loader: Loader,
    teacher: Teacher,
    target: Target,
    generator: torch.Generator | None,
    runs: int,
) -> list[Rows]:
    """Collect the rows of every exit in one pass over a loader."""
    network = calibrated.network
    parts: list[list[Rows]] = [[] for _ in network.exits]
    for visit in walk.visit_exits(calibrated, batches.read(loader, network)):
        k, batch = visit.exit, visit.batch
        columns = _features(visit.prediction, visit.state)
        features = torch.cat(columns, dim=1)
        check_finite(features, f"predictions and strengths at exit {k}", batch.start)
        truncated = ExitNetwork([*network.stages[: k + 1]], [network.exit(i) for i in range(k + 1)])
        labels = _label(truncated, k, batch, teacher, target, generator, runs)
        keys = None if k else keys_of(batch.inputs)  # the inputs of all exits are the same
        widths = tuple(part.shape[1] for part in columns)
        parts[k].append(Rows(features, widths, labels.labels, labels.passes, keys=keys))
    return [rows.concatenate(iter(exit_)) for exit_ in parts]


def _label(truncated: ExitNetwork, k: int, batch: batches.Batch, teacher: Teacher, *settings: Any) -> Labeled:
    """Label a batch with the variation of the network up to exit k; errors of the teacher name the exit."""
    try:
        return label_batch(truncated, batch, teacher, *settings)
    except ValueError as error:
        raise ValueError(f"before exit {k}: {error}") from error


def _features(prediction: AnyPrediction, state: State) -> list[Tensor]:
    """Compute the features of a batch, float32: of the prediction, then the strengths of each floating-point tensor."""
    answer = output_features(prediction.outputs, prediction.kind)
    leaves = [leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    strengths = [
        torch.cat(summary("state", leaf[:, None] if leaf.ndim == 1 else leaf, answer.shape[0], "value"), dim=1)
        for leaf in leaves
    ]
    return [answer.float(), *strengths]
