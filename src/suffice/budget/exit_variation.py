"""The dropout variation of each exit as a score: where the two papers meet.

At exit k a small network reads what has been computed there anyway, the answer and the strengths of the state behind
stage k, and estimates how much dropout up to there would vary that exit's own output. A policy that stops on it spends
nothing else. What it learns is what a teacher says about the network cut off behind exit k.
"""

import math
from collections.abc import Iterator, Sequence
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
from suffice.prediction import AnyPrediction, Prediction
from suffice.storage.parts import Parts, prefixed
from suffice.utils.modes import default_modes
from suffice.utils.nest import tree_leaves
from suffice.variation.features.reader import output_features
from suffice.variation.features.strengths import summary
from suffice.variation.learning import objective, rows
from suffice.variation.learning.fit import Fit
from suffice.variation.learning.labels import Labeled, check_teacher, labeled
from suffice.variation.learning.rows import Rows
from suffice.variation.teachers import spreads
from suffice.variation.teachers.teacher import Teacher


@dataclass(frozen=True, eq=False)
class VariationScore:
    """Minus the estimated variation at each exit. Made by `fit_exit_variation`; it is saved with its policy.

    Attributes:
        made_for: `digest` of the calibrated network.
        fits: of each exit, to a spread of its own output.
        r_squared: of each exit, noise-corrected R² on validation rows kept aside.
    """

    made_for: str = field(repr=False)
    fits: tuple[Fit, ...] = field(repr=False)
    r_squared: tuple[float, ...]

    @property
    def target(self) -> str:
        """Which spread of each exit's own output."""
        return self.fits[0].target

    @property
    def macs(self) -> tuple[int, ...]:
        """Multiply-adds per example at each exit, beyond those of the network and its uncertainty."""
        return tuple(fit.macs for fit in self.fits)

    def at(self, k: int) -> Score:
        """The score of exit k, `(prediction, state) -> (N,)`."""
        return lambda prediction, state: -self.variation(k, prediction, state)

    @torch.no_grad()
    def variation(self, k: int, prediction: AnyPrediction, state: State) -> Tensor:
        """The estimated spread (N,) float32 at exit k, of its answer and the state behind stage k."""
        features = torch.cat(_features(prediction, state), dim=1)
        return self.fits[k].to(features.device)(features)

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Configuration and tensors of an artifact."""
        exits, tensors = [], dict[str, Tensor]()
        for k, fit in enumerate(self.fits):
            configuration, own = fit.parts()
            exits.append(configuration)
            tensors |= prefixed(f"exit{k}.", own)
        return {
            "made_for": self.made_for,
            "exits": exits,
            "r_squared": self.r_squared,
        }, tensors

    @classmethod
    def from_parts(cls, parts: Parts) -> "VariationScore":
        """The reverse of `parts`."""
        fits = tuple(map(Fit.from_parts, parts.each("exits", "exit")))
        if len(fits) != parts.sizes.setdefault("K", len(fits)) or len({fit.target for fit in fits}) != 1:
            parts.refuse("exits", f"{parts.sizes['K']}, one for each exit, of one target", [fit.target for fit in fits])
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
    """Learn what `teacher` says about every exit of a calibrated network, as a score for policies.

    Args:
        calibrated: the network; at each exit the teacher is shown the network up to there.
        train_loader: batches of inputs as they will be met in use; read once, labels not needed.
        val_loader: other inputs, labelled twice; every other row stops the fit, the rest judges it.
        teacher: such as `MCDropout(passes=10)`; its cost is that of all exits together.
        target: a spread, as for `fit_variation`.
        hidden: widths of the small networks' hidden layers.
        epochs: at most so many passes over the training rows.
        generator: randomness of teacher and fits; the same state gives the same bytes.

    Raises:
        TypeError: for a network that is not calibrated, or what `fit_variation` refuses.
        ValueError: as `fit_variation`, naming the exit; also if nothing is dropped before one, such as the first.
    """
    walk.check_calibrated(calibrated)
    check_teacher(teacher)
    batches.check_loader(val_loader)
    spreads.power(target)
    seen = _rows(calibrated, train_loader, teacher, target, generator, runs=1)
    unseen = _rows(calibrated, val_loader, teacher, target, generator, runs=2)
    fits, quality = [], []
    for own, others in zip(seen, unseen, strict=True):
        stopping, judging = rows.halves(others)
        fit = objective.fit_rows(own, stopping, target, hidden, epochs, generator)
        fits.append(fit)
        quality.append(objective.r_squared(fit(judging.features), judging, target))
    return VariationScore(calibrated.digest, tuple(fits), tuple(quality))


def _rows(
    calibrated: Calibrated, loader: Loader, teacher: Teacher, target: str, generator: torch.Generator | None, runs: int
) -> list[Rows]:
    """Rows of every exit, from one pass over a loader."""
    network = calibrated.network
    parts: list[list[Rows]] = [[] for _ in network.exits]
    for batch in batches.read(loader, network):
        for k, (prediction, state) in enumerate(_answers(calibrated, batch.inputs)):
            found = _features(prediction, state)
            features = torch.cat(found, dim=1)
            check_finite(features, f"answers and strengths at exit {k}", batch.start)
            cut = ExitNetwork([*network.stages[: k + 1]], [network.exit(i) for i in range(k + 1)])
            own = _asked(cut, k, batch, teacher, target, generator, runs)
            parts[k].append(Rows(features, tuple(part.shape[1] for part in found), own.labels, own.passes))
    return [rows.collected(iter(exit_)) for exit_ in parts]


def _asked(cut: ExitNetwork, k: int, batch: batches.Batch, teacher: Teacher, *asked: Any) -> Labeled:
    """What a teacher says of the network up to exit k; what it refuses names the exit."""
    try:
        return labeled(cut, batch, teacher, *asked)
    except ValueError as error:
        raise ValueError(f"before exit {k}: {error}") from error


def _answers(calibrated: Calibrated, x: State) -> Iterator[tuple[AnyPrediction, State]]:
    state, running = x, None
    for k in range(len(calibrated.exits)):
        state, prediction, running = calibrated.step(k, state, running)
        yield prediction, state


def _features(prediction: AnyPrediction, state: State) -> list[Tensor]:
    """Features of a batch, float32: of the answer, then the strengths of each floating-point tensor of the state."""
    if isinstance(prediction, Prediction):
        answer = output_features(prediction.log_probs, "classification")
    else:
        answer = torch.cat([prediction.mean, prediction.epistemic_variance.log(), prediction.variance.log()], dim=1)
    leaves = [leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    strengths = [
        torch.cat(summary("state", leaf[:, None] if leaf.ndim == 1 else leaf, len(prediction), "value"), dim=1)
        for leaf in leaves
    ]
    return [answer.float(), *strengths]
