"""Run a policy: answered examples leave the batch, the others go on.

What `run` answers is what computing every exit and picking would answer: examples do not see each other, and
the ensemble's running sums travel with those that go on.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from suffice.budget import scores as scoring
from suffice.budget.policy import Policy
from suffice.calibration.calibrated import Calibrated
from suffice.network import State, batch_size, select
from suffice.prediction import Prediction, concatenate
from suffice.regression import Regression


@dataclass(frozen=True)
class Answer:
    """What was answered for each example of a batch, in its order, and what it cost.

    Attributes:
        prediction: the prediction of the exit where each example stopped, a `Prediction` or a `Regression`. Its
            properties are also the answer's.
        exit: (N,), that exit, int64, counted from 0.
        macs: (N,), multiply-adds spent, the uncertainty's own included, int64.
    """

    prediction: Any
    exit: Tensor
    macs: Tensor

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
def run(calibrated: Calibrated, policy: Policy, x: State) -> Answer:
    """Answer a batch under a policy; an example is computed no further than the exit where it stops.

    Args:
        calibrated: the network.
        policy: made by `allocate` for this network.
        x: a batch, N ≥ 1: a tensor or a nest of tensors, batch first, on the network's device.

    Raises:
        ValueError: if the policy was made for another calibrated network, or logits are not finite.
    """
    check_policy(calibrated, policy)
    score, thresholds = scoring.resolve(policy.score), policy.thresholds.tolist()
    state, running = x, None
    answered: list[tuple[Tensor, Any]] = []
    positions = torch.arange(batch_size(x), device=_device(calibrated))
    for k in range(len(calibrated.exits)):
        state, prediction, running = calibrated.step(k, state, running)
        if k == len(thresholds):
            answered.append((positions, prediction))
            break
        stops = scoring.evaluate(score, prediction, state, k) >= thresholds[k]
        leaving, staying = stops.nonzero()[:, 0], (~stops).nonzero()[:, 0]
        answered.append((positions[leaving], prediction.take(leaving)))
        if not len(staying):
            break
        if len(leaving):
            positions, state = positions[staying], select(state, staying)
            running = running and running.take(staying)
    return _in_order(answered, calibrated.costs.cumulative)


def check_policy(calibrated: Calibrated, policy: Policy) -> None:
    """Raise a ValueError unless the policy was made for this network, calibrated in this way."""
    if policy.made_for != calibrated.digest:
        raise ValueError(
            f"expected a policy for this calibrated network ({calibrated.digest[:12]}…), got one for another "
            f"({policy.made_for[:12]}…); make one with suffice.allocate"
        )
    if len(policy.thresholds) != len(calibrated.exits) - 1:
        raise ValueError(
            f"expected {len(calibrated.exits) - 1} thresholds, one for each exit but the last, "
            f"got {len(policy.thresholds)}"
        )


def _device(calibrated: Calibrated) -> torch.device:
    return calibrated.network.exit(0).classifier.weight.device


def _in_order(answered: list[tuple[Tensor, Any]], costs: tuple[int, ...]) -> Answer:
    """Answers of each exit put back into the order of the batch."""
    exits = torch.cat([torch.full_like(positions, k) for k, (positions, _) in enumerate(answered)])
    order = torch.cat([positions for positions, _ in answered]).argsort()
    exits = exits[order]
    prediction = concatenate([part for _, part in answered]).take(order)
    return Answer(prediction, exits, torch.tensor(costs, device=exits.device)[exits])
