"""Keep the mean cost when inputs drift, by thresholds that are running quantiles of recent scores.

A policy stops a fraction h_k = r_k / (r_k + … + r_K) of the examples that reach exit k, with r its validation shares.
The running threshold of exit k is the quantile that stops this fraction of the last W examples that reached it, so the
shares, and with them the mean cost, return to their values however the scores move. Accuracy does not: under drift the
same cost buys less of it, and a guaranteed loss no longer holds.

The state is a value: run a batch with `tracker.policy`, and take the next state from `tracker.update(answer)`.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from suffice.budget.policy import Policy
from suffice.budget.running.run import Answer
from suffice.budget.thresholds.families import cut, nearest_cut, rank
from suffice.utils import arguments


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
    recent: tuple[Tensor, ...]
    window: int
    min_scores: int

    @property
    def policy(self) -> Policy:
        """Policy for the next batch; it is never mixed."""
        thresholds = self.frozen.thresholds.clone()
        reaching = self.frozen.shares.flip(0).cumsum(0).flip(0)
        for k, scores in enumerate(self.recent):
            if len(scores) >= self.min_scores and reaching[k] > 0:
                thresholds[k] = _quantile(scores, float(self.frozen.shares[k] / reaching[k]))
        return replace(self.frozen, thresholds=thresholds, alternative=None, portion=0.0, promise=None)

    def update(self, answer: Answer) -> "Tracker":
        """Return the state after a batch that was run with `tracker.policy`."""
        batch_scores = [column[~column.isnan()] for column in answer.scores.unbind(dim=1)]
        pairs = zip(self.recent, batch_scores, strict=True)
        return replace(self, recent=tuple(torch.cat([old.to(new), new])[-self.window :] for old, new in pairs))


def track(policy: Policy, window: int = 500, min_scores: int = 50) -> Tracker:
    """Return the initial state: a policy with its own thresholds, and no scores yet.

    Args:
        policy: Policy made by `allocate`.
        window: Number W of scores kept for each exit. A small window follows a change sooner, but the fraction that an
            exit stops varies by about √(h(1 − h)/W).
        min_scores: Number of scores from which the running threshold of an exit is used, at most W.

    Raises:
        TypeError: If the arguments are not a policy and whole numbers.
        ValueError: Unless 1 ≤ min_scores ≤ window, and for a policy with a guaranteed loss, which would no longer hold.
    """
    if not isinstance(policy, Policy):
        raise TypeError(f"expected a policy of suffice.allocate, got {type(policy).__name__}")
    if not 1 <= arguments.whole("min_scores", min_scores, None) <= arguments.whole("window", window, None):
        raise ValueError(f"expected 1 ≤ min_scores ≤ window, got min_scores={min_scores} and window={window}")
    if policy.promise is not None:
        raise ValueError(
            "expected a policy for a budget, got one with a guaranteed loss; make one with suffice.allocate"
        )
    return Tracker(policy, (torch.empty(0, dtype=torch.float64),) * len(policy.thresholds), window, min_scores)


def _quantile(scores: Tensor, share: float) -> float:
    """Return the threshold that stops about this share of the scores (W,)."""
    (ranked,) = rank([scores])
    present = torch.arange(1, len(scores) + 1, device=scores.device)
    return cut(ranked, present, nearest_cut(ranked, present, round(share * len(scores))))
