"""Probabilities of several labels, each present or absent, with their uncertainty.

Given an input the labels are independent: with p_c the probability that label c is present, a set of labels y has the
probability Π_c p_c^{y_c} (1 − p_c)^{1 − y_c}. Entropies are therefore sums over the labels. For the probabilities p_c
with members p_jc of weight w_j (the exits of an ensemble, or a single exit), and h(p) = −p log p − (1 − p) log(1 − p):

    total      Σ_c h(p_c)                       entropy of the set of labels
    aleatoric  Σ_c Σ_j w_j E_q[h(p_jc)]         expected entropy under each member's posterior, weights summing to 1
    epistemic  total − aleatoric                disagreement of the members and of their posteriors, label by label

All in nats. An ensemble combines each label's probability by itself, so that its labels are independent too.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import one_hot

from suffice import metrics
from suffice.prediction.classification import entropy
from suffice.prediction.interface import Kind, Loss, Streak


@dataclass(frozen=True)
class Multilabel:
    """Probabilities of K labels with their uncertainty; every field is batch first. The counterpart of `Prediction`.

    Attributes:
        log_probs: Log-probabilities (N, K, 2) that a label is absent and that it is present, which do not saturate
            where probabilities round to 0 or 1.
        label_aleatoric: Expected entropy (N, K) of each label in nats.
        members: Predictions of the single exits if this one is an ensemble, else empty.
        agreeing: Number (N,) of exits in a row, up to and including this one, that predict this set of labels, int64;
            None where it was not counted.

    Example:
        >>> import torch
        >>> from suffice import Multilabel
        >>> probs = torch.tensor([[0.9, 0.2, 0.6]])
        >>> prediction = Multilabel(torch.stack([1 - probs, probs], dim=2).log(), label_aleatoric=torch.zeros(1, 3))
        >>> prediction.label.tolist()
        [[1, 0, 1]]
        >>> round(prediction.confidence.item(), 2)  # the expected share of labels that are right
        0.77
    """

    kind: ClassVar[Kind] = "multilabel"
    score_names: ClassVar[tuple[str, ...]] = (
        "aleatoric", "confidence", "entropy", "epistemic", "margin", "patience",
    )  # fmt: skip
    measure_names: ClassVar[tuple[str, ...]] = (
        "accuracy", "subset_accuracy", "map", "nll", "brier", "ece", "ece_equal_mass", "auroc", "aurc",
    )  # fmt: skip

    log_probs: Tensor
    label_aleatoric: Tensor
    members: "tuple[Multilabel, ...]" = ()
    agreeing: Tensor | None = None

    def __repr__(self) -> str:
        """Describe the batch in one line; the fields hold the numbers."""
        ensemble = f", ensemble of {len(self.members)}" if self.members else ""
        return f"Multilabel({len(self):,} examples, {self.log_probs.shape[1]:,} labels{ensemble})"

    @property
    def probs(self) -> Tensor:
        """Probability (N, K) that each label is present."""
        return self.log_probs[..., 1].exp()

    @property
    def label(self) -> Tensor:
        """1 for each label with a probability above 1/2, else 0, (N, K) int64."""
        return (self.label_log_odds > 0).long()

    @property
    def label_log_odds(self) -> Tensor:
        """Log-odds (N, K) that each label is present, log p − log(1 − p)."""
        return self.log_probs[..., 1] - self.log_probs[..., 0]

    @property
    def confidence(self) -> Tensor:
        """Expected share (N,) of labels that are right, the mean over the labels of max(p, 1 − p)."""
        return self.log_probs.amax(dim=-1).exp().mean(dim=-1)

    @property
    def log_odds(self) -> Tensor:
        """Log-odds (N,) of the expected share of labels that are right, log Σ_c max(p, 1 − p) − log Σ_c min(p, 1 − p).

        They rank as that share does, but do not saturate at 1, where overconfident networks tie.
        """
        right, wrong = self.log_probs.amax(dim=-1), self.log_probs.amin(dim=-1)
        return right.logsumexp(dim=-1) - wrong.logsumexp(dim=-1)

    @property
    def margin(self) -> Tensor:
        """Difference (N,) of the log-probabilities of the two most probable sets of labels.

        They differ in the least certain label, so it is the smallest absolute log-odds of a label.
        """
        return (self.log_probs.amax(dim=-1) - self.log_probs.amin(dim=-1)).amin(dim=-1)

    @property
    def label_entropy(self) -> Tensor:
        """Total uncertainty h(p) (N, K) of each label in nats."""
        return entropy(self.log_probs)

    @property
    def label_epistemic(self) -> Tensor:
        """Entropy minus aleatoric uncertainty (N, K) of each label in nats, at least 0."""
        return (self.label_entropy - self.label_aleatoric).clamp_min(0)

    @property
    def entropy(self) -> Tensor:
        """Total uncertainty (N,) in nats, the sum over the labels."""
        return self.label_entropy.sum(dim=-1)

    @property
    def aleatoric(self) -> Tensor:
        """Expected entropy (N,) in nats, the sum over the labels."""
        return self.label_aleatoric.sum(dim=-1)

    @property
    def epistemic(self) -> Tensor:
        """Epistemic uncertainty (N,) in nats, the sum over the labels, at least 0."""
        return self.label_epistemic.sum(dim=-1)

    @property
    def outputs(self) -> Tensor:
        """Log-odds (N, K) of the labels."""
        return self.label_log_odds

    @property
    def default_score(self) -> Tensor:
        """Log-odds (N,) of the expected share of labels that are right."""
        return self.log_odds

    @property
    def epistemic_score(self) -> Tensor:
        """Negative epistemic uncertainty (N,) in nats."""
        return -self.epistemic

    @property
    def chance_correct(self) -> Tensor:
        """Expected share (N,) of labels that are right, float64."""
        return self.confidence.double()

    @property
    def soundness(self) -> Tensor:
        """Value (N,) that is finite where all fields are, so that one check covers them."""
        return (self.log_probs.amax(dim=-1) + self.label_aleatoric).sum(dim=-1)

    def losses(self, labels: Tensor, loss: Loss) -> Tensor:
        """Compute the share of wrong labels (0 to 1) or the mean Brier score of the labels (0 to 2), (N,) float64.

        Args:
            labels: Labels (N, K) of 0 and 1, int64.
            loss: "accuracy" for the share of wrong labels (the Hamming loss), or "brier".

        Raises:
            ValueError: For another loss.
        """
        if loss == "accuracy":
            return (self.label != labels).double().mean(dim=-1)
        if loss == "brier":
            squares = (self.log_probs.exp().double() - one_hot(labels, 2)).square().sum(dim=-1)
            return squares.mean(dim=-1)
        raise ValueError(f"expected the loss 'accuracy' or 'brier' of several labels, got {loss!r}")

    def measures(self, labels: Tensor) -> dict[str, float]:
        """Compute all measures of a multi-label prediction by name.

        "accuracy" is the share of labels that are right, "subset_accuracy" the share of examples with all labels right,
        "map" the mean average precision. "nll" is the sum over the labels; "brier" and the ECEs are means over them.
        "auroc" ranks the examples with all labels right before the others by the default score; "aurc" is the mean
        share of wrong labels among the highest scores.

        Args:
            labels: Labels (N, K) of 0 and 1, int64.
        """
        probs, score, right = self.probs, self.default_score, self.label == labels
        values = (
            right.double().mean(),
            right.all(dim=-1).double().mean(),
            metrics.mean_average_precision(self.label_log_odds, labels),
            metrics.label_nll(self.log_probs, labels).sum(),
            metrics.label_brier(probs, labels).mean(),
            metrics.label_ece(probs, labels).mean(),
            metrics.label_ece(probs, labels, equal_mass=True).mean(),
            metrics.auroc(score, right.all(dim=-1)),
            metrics.aurc(score, right.double().mean(dim=-1)),
        )
        return {name: float(value) for name, value in zip(self.measure_names, values, strict=True)}

    def count_streak(self, previous: Streak | None) -> tuple["Multilabel", Streak]:
        """Count the exits in a row with the same set of labels.

        Args:
            previous: Streak at the exit before this one, or None at the first exit.

        Returns:
            The prediction with `agreeing` filled in, and the streak for the next exit.
        """
        label = self.label
        count = label.new_ones(label.shape[0])
        if previous is not None:
            count = previous[1] * (label == previous[0]).all(dim=-1) + 1
        return replace(self, agreeing=count), (label, count)

    def take(self, index: Tensor) -> "Multilabel":
        """Select the examples `index` (M,)."""
        return Multilabel(
            self.log_probs.index_select(0, index),
            self.label_aleatoric.index_select(0, index),
            tuple(member.take(index) for member in self.members),
            None if self.agreeing is None else self.agreeing.index_select(0, index),
        )

    def __len__(self) -> int:
        """Number of examples N."""
        return len(self.log_probs)
