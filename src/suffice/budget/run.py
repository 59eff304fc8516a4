"""Run a policy: answered examples leave the batch, the others go on.

What `run` answers is what computing every exit and picking would answer: examples do not see each other, and
the ensemble's running sums travel with those that go on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from suffice.budget import scores as scoring
from suffice.budget import walk
from suffice.budget.coin import hash_to_unit
from suffice.budget.policy import Policy
from suffice.budget.walk import Finished, InFlight
from suffice.calibration.calibrated import Calibrated
from suffice.network import State
from suffice.prediction import Prediction, Regression, concatenate


@dataclass(frozen=True)
class Answer:
    """What was answered for each example of a batch, in its order, and what it cost.

    Attributes:
        prediction: the prediction of the exit where each example stopped, a `Prediction` or a `Regression`. Its
            properties are also the answer's.
        exit: (N,), that exit, int64, counted from 0.
        macs: (N,), multiply-adds spent, the uncertainty's own included, int64.
        scores: (N, K − 1), the score at each exit that was asked, float64, else NaN.
    """

    prediction: Any
    exit: Tensor
    macs: Tensor
    scores: Tensor

    def __repr__(self) -> str:
        """One line: how many examples stopped where, and what they cost on average."""
        exits, counts = (values.tolist() for values in self.exit.unique(return_counts=True))
        stopped = ", ".join(f"{count:,} at exit {k}" for k, count in zip(exits, counts, strict=True))
        mean = f", {float(self.macs.double().mean()):,.0f} multiply-adds each" if exits else ""
        return f"Answer({len(self.exit):,} examples{': ' if stopped else ''}{stopped}{mean})"

    @property
    def probs(self) -> Tensor:
        """(N, C), probabilities."""
        return self._classes.probs

    @property
    def label(self) -> Tensor:
        """(N,), the most probable class, int64."""
        return self._classes.label

    @property
    def confidence(self) -> Tensor:
        """(N,), the greatest probability."""
        return self._classes.confidence

    @property
    def entropy(self) -> Tensor:
        """(N,), total uncertainty in nats."""
        return self._classes.entropy

    @property
    def aleatoric(self) -> Tensor:
        """(N,), expected entropy in nats."""
        return self._classes.aleatoric

    @property
    def epistemic(self) -> Tensor:
        """(N,), entropy minus aleatoric, in nats."""
        return self._classes.epistemic

    @property
    def mean(self) -> Tensor:
        """(N, C), of a regression."""
        return self._numbers.mean

    @property
    def variance(self) -> Tensor:
        """(N, C), total variance of a regression."""
        return self._numbers.variance

    @property
    def _classes(self) -> Prediction:
        if not isinstance(self.prediction, Prediction):
            raise AttributeError("expected an answer of classes, got one of a regression; ask for mean and variance")
        return self.prediction

    @property
    def _numbers(self) -> Regression:
        if not isinstance(self.prediction, Regression):
            raise AttributeError("expected an answer of a regression, got one of classes; ask for probs")
        return self.prediction


@torch.no_grad()
def run(calibrated: Calibrated, policy: Policy, x: State, *, buckets: Sequence[int] | None = None) -> Answer:
    """Answer a batch under a policy; an example is computed no further than the exit where it stops.

    Answered examples leave the batch at once, unless the policy has a profile and by its times copying the rest
    would take longer than computing all; then they stay, ignored. Answers are those of `calibrated(x)` but for the
    rounding of the network's own kernels, which depends on the size of a batch: probabilities agree to 1e-5 in float32
    where logits and their samples are below about 30 times their temperature, and in proportion to that in larger ones
    and other types.

    Args:
        calibrated: the network.
        policy: made by `allocate` or `control_risk` for this network.
        x: a batch, N ≥ 1: a tensor or a nest of tensors, batch first, on the network's device.
        buckets: sizes to which batches are filled up, so that a compiled stage meets these shapes only; a batch
            larger than all of them stays as it is. Without, batches have the size that they come to have.

    Raises:
        TypeError: for what is no calibrated network or no policy.
        ValueError: if the policy was made for another calibrated network, or logits are not finite (named by
            their position in x).
    """
    check_policy(calibrated, policy)
    sizes, finished = sorted(buckets or ()), list[Finished]()
    in_flight = enter(calibrated, policy, x)
    if len(in_flight) < (size := fitting(len(in_flight), sizes)) and len(in_flight):
        in_flight = in_flight.filled(torch.arange(len(in_flight), device=in_flight.positions.device), size)
    for k in range(len(calibrated.exits)):
        leaving, in_flight, staying = advance(calibrated, policy, k, in_flight)
        finished += leaving
        if not len(staying):
            break
        size = fitting(len(staying), sizes)
        if size < len(in_flight) and (policy.profile is None or policy.profile.pays(k, len(in_flight), size)):
            in_flight = in_flight.filled(staying, size)
    return in_order(finished, scoring.priced(calibrated.costs.cumulative, policy.score))


def enter(calibrated: Calibrated, policy: Policy, x: State, start: int = 0) -> InFlight:
    """A batch before the first exit, each example with its coin if the policy is mixed."""
    return walk.begin(calibrated, x, hash_to_unit(x) if policy.alternative is not None else None, start)


def advance(
    calibrated: Calibrated, policy: Policy, k: int, in_flight: InFlight
) -> tuple[list[Finished], InFlight, Tensor]:
    """Run stage and exit k: who stops, the rows with those marked as nobody's, and the rows of those that go on."""
    score = scoring.resolve(policy.score)
    in_flight, prediction = walk.step(calibrated, k, in_flight, score)
    if k == len(policy.thresholds):
        return walk.leave(in_flight, prediction, torch.ones_like(in_flight.positions, dtype=torch.bool), k)
    in_flight = walk.scored(in_flight, prediction, score, k)
    return walk.leave(in_flight, prediction, policy.stops(k, in_flight.scores[:, k], in_flight.coin), k)


def fitting(size: int, buckets: Sequence[int]) -> int:
    """The smallest of the rising `buckets` that holds `size` examples; `size` itself where none does."""
    return next((bucket for bucket in buckets if bucket >= size), size)


def check_policy(calibrated: Calibrated, policy: Policy) -> None:
    """Raise an error unless the policy was made for this network, calibrated in this way.

    Raises:
        TypeError: for arguments that are no calibrated network and no policy.
        ValueError: for a policy of another network.
    """
    if not (isinstance(calibrated, Calibrated) and isinstance(policy, Policy)):
        raise TypeError(
            f"expected a Calibrated and then a Policy, got {type(calibrated).__name__} and {type(policy).__name__}; "
            "suffice.calibrate gives the one, suffice.allocate the other"
        )
    policy.check_made_for(calibrated)


def in_order(finished: Sequence[Finished], costs: Sequence[int]) -> Answer:
    """What left at each exit put back into the order of the positions."""
    exits = torch.cat([torch.full_like(part.positions, part.exit) for part in finished])
    width = len(costs) - 1
    scores = torch.cat([pad(part.scores, (0, width - part.scores.shape[1]), value=torch.nan) for part in finished])
    price = torch.tensor(costs, device=exits.device)
    if len(finished) == 1:  # who stay together stay in order
        return Answer(finished[0].prediction, exits, price[exits], scores)
    order = torch.cat([part.positions for part in finished]).argsort()
    prediction = concatenate([part.prediction for part in finished]).take(order)
    return Answer(prediction, exits[order], price[exits[order]], scores[order])
