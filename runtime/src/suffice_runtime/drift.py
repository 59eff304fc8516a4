"""Keep the mean cost when inputs drift, by thresholds that are running quantiles of recent scores.

The counterpart of `suffice.budget.drift`. A policy stops a fraction h_k = r_k / (r_k + … + r_K) of the examples that
reach exit k, with r its validation shares. The running threshold of exit k is the quantile that stops this fraction of
the last W examples that reached it. Accuracy is not kept: under drift the same cost buys less of it.

The state is a value: run a batch with `tracker.policy`, and take the next state from `tracker.update(answer)`.
"""

import math
import operator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from suffice_runtime.answer import Answer
from suffice_runtime.policy import Policy

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Tracker:
    """Policy with the recent scores at its exits.

    Attributes:
        frozen: Original policy. Its threshold is used at an exit with fewer than `min_scores` recent scores.
        recent: Scores (≤ W,) of the last examples that reached each of the first K − 1 exits, oldest first.
        window: Number W of scores kept for each exit.
        min_scores: Number of scores from which the running threshold of an exit is used.
    """

    frozen: Policy
    recent: tuple[Floats, ...]
    window: int
    min_scores: int

    @property
    def policy(self) -> Policy:
        """Policy for the next batch; it is never mixed."""
        thresholds = self.frozen.thresholds.copy()
        reaching = self.frozen.shares[::-1].cumsum()[::-1]
        for k, scores in enumerate(self.recent):
            if len(scores) >= self.min_scores and reaching[k] > 0:
                thresholds[k] = _quantile(scores, float(self.frozen.shares[k] / reaching[k]))
        return replace(self.frozen, thresholds=thresholds, alternative=None, portion=0.0, promise=None)

    def update(self, answer: Answer) -> "Tracker":
        """Return the state after a batch that was run with `tracker.policy`."""
        columns = [column[~np.isnan(column)] for column in answer.scores.T]
        pairs = zip(self.recent, columns, strict=True)
        return replace(self, recent=tuple(np.concatenate(pair)[-self.window :] for pair in pairs))


def track(policy: Policy, window: int = 500, min_scores: int = 50) -> Tracker:
    """Return the initial state: a policy with its own thresholds, and no scores yet.

    Args:
        policy: Policy of a bundle, made by `suffice.allocate`.
        window: Number W of scores kept for each exit. A small window follows a change sooner, but the fraction that an
            exit stops varies by about √(h(1 − h)/W).
        min_scores: Number of scores from which the running threshold of an exit is used, at most W.

    Raises:
        TypeError: If the arguments are not a policy and whole numbers.
        ValueError: Unless 1 ≤ min_scores ≤ window, and for a policy with a guaranteed loss, which would no longer hold.
    """
    if not isinstance(policy, Policy):
        raise TypeError(f"expected the policy of a bundle, got {type(policy).__name__}; pass runner.policy")
    if not 1 <= operator.index(min_scores) <= operator.index(window):
        raise ValueError(f"expected 1 ≤ min_scores ≤ window, got min_scores={min_scores} and window={window}")
    if policy.promise is not None:
        raise ValueError(
            "expected a policy for a budget, got one with a guaranteed loss; export one made by suffice.allocate"
        )
    return Tracker(policy, (np.empty(0),) * len(policy.thresholds), window, min_scores)


def _quantile(scores: Floats, share: float) -> float:
    """Return the threshold that stops about this share of the scores (W,).

    It lies midway between the last score that stops and the first that continues. Equal scores stop or continue
    together, whichever is nearer to the share; ±inf where none or all stop.
    """
    falling = np.sort(scores)[::-1]
    target = max(0, min(round(share * len(falling)), len(falling)))
    if target == 0:
        return math.inf
    at = falling[target - 1]
    above, through = int((falling > at).sum()), int((falling >= at).sum())
    stopping = through if through - target <= target - above else above
    if stopping == 0:
        return math.inf
    if stopping == len(falling):
        return -math.inf
    last, first = float(falling[stopping - 1]), float(falling[stopping])
    middle = last / 2 + first / 2
    return middle if first < middle else last
