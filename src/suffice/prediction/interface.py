"""Interface that all predictions share, so that code for any likelihood needs no case distinction."""

from typing import ClassVar, Literal, Protocol, Self

from torch import Tensor

Kind = Literal["classification", "multilabel", "regression"]

Loss = Literal["accuracy", "brier"]
"""Loss of a prediction of classes or labels: its error in [0, 1], or its Brier score in [0, 2].

The error is 0 or 1 for classes, and the share of wrong labels for several labels.
"""

Streak = tuple[Tensor, Tensor]
"""Label (N,), or labels (N, K), at an exit, and the number (N,) of exits in a row up to this one with them; int64."""


class AnyPrediction(Protocol):
    """Interface of the predictions that an exit can make: `Prediction`, `Multilabel` and `Regression`."""

    kind: ClassVar[Kind]
    """Kind of the targets."""

    score_names: ClassVar[tuple[str, ...]]
    """Names of the scores in `suffice.budget.scores` that apply."""

    measure_names: ClassVar[tuple[str, ...]]
    """Keys of `measures`."""

    @property
    def members(self) -> "tuple[AnyPrediction, ...]":
        """Predictions of the single exits if this one is an ensemble, else empty."""

    @property
    def outputs(self) -> Tensor:
        """Parameters of the predicted distributions, (N, F)."""

    @property
    def default_score(self) -> Tensor:
        """Score (N,) for early exits unless another one is chosen, higher meaning more certain."""

    @property
    def epistemic_score(self) -> Tensor:
        """Score (N,) by the epistemic uncertainty alone, higher meaning more certain."""

    @property
    def chance_correct(self) -> Tensor:
        """Predicted probability (N,) that the label is correct, float64; NaN for regression.

        For several labels it is the expected share of labels that are right.
        """

    @property
    def soundness(self) -> Tensor:
        """Value (N,) that is finite where all fields are, so that one check covers them."""

    def losses(self, labels: Tensor, loss: Loss) -> Tensor:
        """Compute the loss (N,) that a risk guarantee controls, float64."""

    def measures(self, labels: Tensor) -> dict[str, float]:
        """Compute all measures that apply, by name."""

    def count_streak(self, previous: Streak | None) -> tuple[Self, Streak | None]:
        """Count the exits in a row with the same label, where there are labels."""

    def take(self, index: Tensor) -> Self:
        """Select the examples `index` (M,)."""

    def __len__(self) -> int:
        """Number of examples N."""
