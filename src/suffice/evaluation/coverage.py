"""Coverage and size of prediction sets on labeled data, for each exit and over all."""

from typing import Any

import torch
from torch import Tensor

from suffice.batches import Loader
from suffice.budget.policy import Policy
from suffice.budget.running.run import run
from suffice.calibration import likelihoods
from suffice.calibration.calibrated import Calibrated


@torch.no_grad()
def set_coverage(calibrated: Calibrated, policy: Policy, loader: Loader) -> list[dict[str, Any]]:
    """Measure the prediction sets of the answers to a labeled loader, read once.

    Args:
        calibrated: Calibrated network.
        policy: Policy from `suffice.conformalize`.
        loader: Labeled batches that were used for nothing else.

    Returns:
        One row for all answers and one for each exit, in order. "exit": its number, None in the first row. "examples":
        their number. "coverage": the fraction of sets that contain the truth. "low" and "high": the 95 % interval of
        that fraction's expected value (Clopper and Pearson). "size": the mean number of labels, or mean width. "empty":
        the fraction of size 0. NaN where no example stops.

    Raises:
        ValueError: For a policy without prediction sets, or one of another network.

    Example:
        >>> import torch
        >>> import suffice
        >>> network, x = suffice.models.convnet(num_classes=3, widths=(4, 8)), torch.rand(400, 1, 8, 8)
        >>> loader = [(x, torch.arange(400) % 3)]
        >>> calibrated = suffice.calibrate(network, None, loader, structure=None, temperature=False)
        >>> policy = suffice.conformalize(calibrated, suffice.allocate(calibrated, [x], budget=0.8), loader)
        >>> rows = suffice.evaluation.set_coverage(calibrated, policy, loader)
        >>> [(row["exit"], row["coverage"] >= 0.9) for row in rows]
        [(None, True), (0, True), (1, True)]
    """
    if policy.sets is None:
        raise ValueError("expected a policy with prediction sets, got one without; make one with suffice.conformalize")
    parts = []
    for batch, targets in likelihoods.read(loader, calibrated.network, calibrated.likelihood):
        answer = run(calibrated, policy, batch.inputs)
        assert answer.set is not None
        columns = answer.exit, answer.set.contains(targets), answer.set.size
        parts.append(torch.stack([column.double().cpu() for column in columns]))
    exits, covered, sizes = torch.cat(parts, dim=1)
    groups: list[tuple[int | None, Tensor]] = [(None, torch.ones_like(exits, dtype=torch.bool))]
    groups += [(k, exits == k) for k in range(len(calibrated.exits))]
    return [{"exit": k, **_summary(covered[rows], sizes[rows])} for k, rows in groups]


def _summary(covered: Tensor, sizes: Tensor) -> dict[str, float]:
    """Return the measures of one group of answers, from whether each is covered (n,) and its size (n,)."""
    from scipy.stats import binomtest

    low = high = float("nan")
    if len(covered):
        low, high = binomtest(int(covered.sum()), len(covered)).proportion_ci(0.95, "exact")
    return {
        "examples": len(covered),
        "coverage": float(covered.mean()),
        "low": float(low),
        "high": float(high),
        "size": float(sizes.mean()),
        "empty": float((sizes == 0).double().mean()),
    }
