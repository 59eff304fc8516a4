"""Class probabilities with their uncertainty.

For probabilities p with members p_j of weight w_j (the exits of an ensemble, or a single exit):

    total      H[p]                      entropy of the prediction
    aleatoric  Σ_j w_j E_q[H[p_j]]       expected entropy under each member's posterior, weights summing to 1
    epistemic  H[p] − aleatoric          disagreement of the members and of their posteriors

All in nats. Without a posterior and without an ensemble the epistemic part is zero.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from suffice import metrics
from suffice.prediction.interface import Kind, Loss, Streak
from suffice.utils import checks


@dataclass(frozen=True)
class Prediction:
    """Class probabilities of a batch with their uncertainty; every field is batch first.

    Attributes:
        log_probs: Log-probabilities (N, C), which do not saturate where probabilities round to 1.
        aleatoric: Expected entropy (N,) in nats.
        members: Predictions of the single exits if this one is an ensemble, else empty.
        agreeing: Number (N,) of exits in a row, up to and including this one, that predict this label, int64; None
            where it was not counted.

    Example:
        >>> import torch
        >>> from suffice import Prediction
        >>> prediction = Prediction(torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log(), aleatoric=torch.zeros(2))
        >>> prediction.label.tolist()
        [0, 1]
        >>> [round(nats, 2) for nats in prediction.entropy.tolist()]
        [0.33, 0.5]
    """

    kind: ClassVar[Kind] = "classification"
    score_names: ClassVar[tuple[str, ...]] = (
        "aleatoric", "confidence", "entropy", "epistemic", "margin", "patience",
    )  # fmt: skip
    measure_names: ClassVar[tuple[str, ...]] = (
        "accuracy", "top5", "nll", "brier", "ece", "ece_equal_mass", "auroc", "aurc",
    )  # fmt: skip

    log_probs: Tensor
    aleatoric: Tensor
    members: "tuple[Prediction, ...]" = ()
    agreeing: Tensor | None = None

    def __repr__(self) -> str:
        """Describe the batch in one line; the fields hold the numbers."""
        ensemble = f", ensemble of {len(self.members)}" if self.members else ""
        return f"Prediction({len(self):,} examples, {self.log_probs.shape[-1]:,} classes{ensemble})"

    @property
    def probs(self) -> Tensor:
        """Class probabilities (N, C)."""
        return self.log_probs.exp()

    @property
    def label(self) -> Tensor:
        """Most probable class (N,), int64."""
        return self.log_probs.argmax(dim=-1)

    @property
    def confidence(self) -> Tensor:
        """Greatest probability (N,)."""
        return self.log_probs.amax(dim=-1).exp()

    @property
    def log_odds(self) -> Tensor:
        """Log-odds (N,) of the most probable class, log p − log(1 − p).

        They rank as its probability does, but do not saturate at 1, where overconfident networks tie.
        """
        top, label = self.log_probs.max(dim=-1)
        others = self.log_probs.scatter(-1, label[:, None], -torch.inf)
        return top - others.logsumexp(dim=-1)

    @property
    def margin(self) -> Tensor:
        """Difference (N,) of the two greatest log-probabilities."""
        best = self.log_probs.topk(2, dim=-1).values
        return best[:, 0] - best[:, 1]

    @property
    def entropy(self) -> Tensor:
        """Total uncertainty H[p] (N,) in nats."""
        return entropy(self.log_probs)

    @property
    def epistemic(self) -> Tensor:
        """Entropy minus aleatoric uncertainty (N,) in nats, at least 0."""
        return (self.entropy - self.aleatoric).clamp_min(0)

    @property
    def outputs(self) -> Tensor:
        """Log-probabilities (N, C)."""
        return self.log_probs

    @property
    def default_score(self) -> Tensor:
        """Log-odds (N,) of the most probable class."""
        return self.log_odds

    @property
    def epistemic_score(self) -> Tensor:
        """Negative epistemic uncertainty (N,) in nats."""
        return -self.epistemic

    @property
    def chance_correct(self) -> Tensor:
        """Predicted probability (N,) that the label is correct, float64."""
        return self.confidence.double()

    @property
    def soundness(self) -> Tensor:
        """Value (N,) that is finite where all fields are, so that one check covers them."""
        return self.log_probs.amax(dim=-1) + self.aleatoric

    def correct(self, labels: Tensor) -> Tensor:
        """Return whether the predicted label of each example is the true one, (N,) bool."""
        return metrics.correct(self.log_probs, labels)

    def losses(self, labels: Tensor, loss: Loss) -> Tensor:
        """Compute the error (0 or 1) or the Brier score (0 to 2) of each example, (N,) float64."""
        if loss == "accuracy":
            return 1 - self.correct(labels).double()
        probs = self.probs
        target = one_hot(checks.labeled(probs, labels), probs.shape[-1])
        return (probs.double() - target).square().sum(dim=-1)

    def measures(self, labels: Tensor) -> dict[str, float]:
        """Compute all measures of a classification by name; AUROC and AURC rank by the default score.

        Args:
            labels: Labels (N,), int64.
        """
        probs, hits, score = self.probs, self.correct(labels), self.default_score
        values = (
            metrics.accuracy(probs, labels),
            metrics.top_k_accuracy(probs, labels),
            metrics.nll(self.log_probs, labels),
            metrics.brier(probs, labels),
            metrics.ece(probs, labels),
            metrics.ece(probs, labels, equal_mass=True),
            metrics.auroc(score, hits),
            metrics.aurc(score, hits),
        )
        return {name: float(value) for name, value in zip(self.measure_names, values, strict=True)}

    def count_streak(self, previous: Streak | None) -> tuple["Prediction", Streak]:
        """Count the exits in a row with the same label.

        Args:
            previous: Streak at the exit before this one, or None at the first exit.

        Returns:
            The prediction with `agreeing` filled in, and the streak for the next exit.
        """
        label = self.label
        count = torch.ones_like(label) if previous is None else previous[1] * (label == previous[0]) + 1
        return replace(self, agreeing=count), (label, count)

    def take(self, index: Tensor) -> "Prediction":
        """Select the examples `index` (M,)."""
        return Prediction(
            self.log_probs.index_select(0, index),
            self.aleatoric.index_select(0, index),
            tuple(member.take(index) for member in self.members),
            None if self.agreeing is None else self.agreeing.index_select(0, index),
        )

    def __len__(self) -> int:
        """Number of examples N."""
        return len(self.log_probs)


def entropy(log_probs: Tensor) -> Tensor:
    """Compute the entropy −Σ p log p in nats over the last dimension; 0 log 0 counts as 0."""
    terms: Tensor = torch.special.entr(log_probs.exp())
    return terms.sum(dim=-1)
