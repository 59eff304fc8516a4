"""Keep the mean cost when inputs change: thresholds that are running quantiles of the scores met in use.

Of the examples that reach exit k the policy stops a share h_k = r_k / (r_k + … + r_K), r its validation shares.
The threshold of exit k is the quantile that stops that share of the last W examples that reached it, so the
shares, and with them the mean cost, come back however the scores move. Accuracy does not come back: under drift
the same money buys less, and a promised loss no longer holds.

The state is a value: `tracker.policy` runs a batch, `tracker.update(answer)` gives the next state.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from suffice.budget.policy import Policy
from suffice.budget.run import Answer
from suffice.budget.thresholds import cut, nearest_cut, rank


@dataclass(frozen=True)
class Tracker:
    """A policy and the scores that it met last.

    Attributes:
        frozen: the policy it began with, whose thresholds are used until `least` scores are known.
        recent: K − 1 tensors (≤ window,), scores of the last examples that reached each exit, oldest first.
        window: W, scores remembered for each exit.
        least: scores of an exit from which its running threshold is used.
    """

    frozen: Policy
    recent: tuple[Tensor, ...]
    window: int
    least: int

    @property
    def policy(self) -> Policy:
        """The policy for the next batch; a mixed one is no longer mixed."""
        thresholds = self.frozen.thresholds.clone()
        reaching = self.frozen.shares.flip(0).cumsum(0).flip(0)
        for k, scores in enumerate(self.recent):
            if len(scores) >= self.least and reaching[k] > 0:
                thresholds[k] = _quantile(scores, float(self.frozen.shares[k] / reaching[k]))
        return replace(self.frozen, thresholds=thresholds, alternative=None, portion=0.0, promise=None)

    def update(self, answer: Answer) -> "Tracker":
        """The state after a batch that `tracker.policy` answered."""
        met = [column[~column.isnan()] for column in answer.scores.unbind(dim=1)]
        pairs = zip(self.recent, met, strict=True)
        return replace(self, recent=tuple(torch.cat([old.to(new), new])[-self.window :] for old, new in pairs))


def follow(policy: Policy, window: int = 500, least: int = 50) -> Tracker:
    """Begin with a policy's own thresholds, and no scores met.

    Args:
        policy: made by `allocate`.
        window: W, scores remembered for each exit: how soon a change is followed. The share that an exit stops
            scatters by about √(h(1 − h)/W).
        least: scores of an exit from which its running threshold is used, at most W.

    Raises:
        ValueError: unless 1 ≤ least ≤ window; for a policy that promises a loss, which would be broken.
    """
    if not 1 <= least <= window:
        raise ValueError(f"expected 1 ≤ least ≤ window, got least={least} and window={window}")
    if policy.promise is not None:
        raise ValueError("expected a policy for a budget, got one that promises a loss; make one with suffice.allocate")
    return Tracker(policy, (torch.empty(0, dtype=torch.float64),) * len(policy.thresholds), window, least)


def _quantile(scores: Tensor, share: float) -> float:
    """Threshold that stops about this share of the scores (W,)."""
    (ranked,) = rank([scores])
    present = torch.arange(1, len(scores) + 1, device=scores.device)
    return cut(ranked, present, nearest_cut(ranked, present, round(share * len(scores))))
