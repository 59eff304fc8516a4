"""Rules of a score that decides when to stop."""

from typing import Any

import torch
from torch import Tensor

from suffice.attach import contract
from suffice.budget import scores as scoring
from suffice.budget import walk
from suffice.budget.scores import AnyScore, ExitScore
from suffice.calibration.calibrated import Calibrated
from suffice.network import State, select
from suffice.testing.rules import (
    ModelRecord,
    check_batch,
    default_generator_unused,
    equal_bytes,
    inputs_unchanged,
    obeying,
    orders,
    rows_of,
    violated,
)


@torch.no_grad()
def check_score(score: str | AnyScore, calibrated: Calibrated, x: State) -> None:
    """Check that a score follows the rules on which policies rely, at every exit of a calibrated network.

    - "is a score": a function that takes (prediction, state), or one function per exit with the cost of each, fitted to
      this network;
    - "returns one number per example": a real tensor (N,) on the device of the prediction, without NaN;
    - "is deterministic": two calls return the same bytes;
    - "scores do not depend on companions": the score of an example is the same, up to rounding, in another order, in
      another batch, and alone;
    - "leaves its inputs unchanged", "leaves the model as it was" and "leaves torch's default generator alone".

    Whether higher means more certain cannot be checked without labels; `metrics.auroc` measures it.

    Args:
        score: Score to check, as for `allocate`.
        calibrated: Calibrated network; it is only read.
        x: Batch of N ≥ 2 different examples: a tensor or a nest of tensors, on the network's device.

    Raises:
        AssertionError: If a rule is violated; the message names it.
        TypeError: For a network that is not calibrated.
        ValueError: For fewer than 2 examples.

    Example:
        >>> import torch
        >>> import suffice
        >>> network, x = suffice.models.convnet(num_classes=3, widths=(4, 8)), torch.rand(20, 1, 8, 8)
        >>> loader = [(x, torch.arange(20) % 3)]
        >>> calibrated = suffice.calibrate(network, None, loader, structure=None, temperature=False)
        >>> suffice.testing.check_score(lambda prediction, state: prediction.confidence, calibrated, x)
        >>> relative = lambda prediction, state: prediction.confidence / prediction.confidence.max()
        >>> suffice.testing.check_score(relative, calibrated, x)
        Traceback (most recent call last):
        AssertionError: rule 'scores do not depend on companions': expected the same scores at exit 0 ...
    """
    walk.check_calibrated(calibrated)
    size = check_batch(x)
    with obeying("is a score"):
        resolved = scoring.resolve(score, calibrated.digest)
    if isinstance(resolved, ExitScore):
        _check_costs(resolved, len(calibrated.exits))
    record, in_flight = ModelRecord.of(calibrated.network), walk.begin(calibrated, x)
    for k in range(len(calibrated.exits)):
        in_flight, prediction = walk.step(calibrated, k, in_flight, count_streak=True)
        with (
            default_generator_unused("the score"),
            inputs_unchanged("the prediction and the state", vars(prediction), in_flight.state),
        ):
            _check_at(resolved, prediction, in_flight.state, k, size)
    record.check(calibrated.network)


def _check_at(score: AnyScore, prediction: Any, state: State, k: int, size: int) -> None:
    """Check the scores of one exit."""
    values = _values(score, prediction, state, k)
    if not equal_bytes(values, _values(score, prediction, state, k)):
        violated("is deterministic", f"the same scores in a second call at exit {k}", "others; look for random numbers")
    for how, rows in orders(size).items():
        on_device = rows.to(values.device)
        others = _values(score, prediction.take(on_device), select(state, rows), k)
        if not contract.same_up_to_rounding(rows_of(values, rows), others):
            violated(
                "scores do not depend on companions", f"the same scores at exit {k} for the examples {how}", "others"
            )


def _values(score: AnyScore, prediction: Any, state: State, k: int) -> Tensor:
    """Return the scores of a batch in their own type, and raise an AssertionError unless they are of the right form."""
    rule = "returns one number per example"
    function = score.at(k) if isinstance(score, ExitScore) else score
    with obeying(rule):
        scoring.evaluate(score, prediction, state, k)
        values = function(prediction, state)
    if values.is_complex():
        violated(rule, f"real numbers at exit {k}", values.dtype)
    device = prediction.default_score.device
    if values.device != device:
        violated(rule, f"scores on the device of the prediction, {device}, at exit {k}", values.device)
    return values


def _check_costs(score: ExitScore, num_exits: int) -> None:
    """Raise an AssertionError unless a score has a cost for each exit."""
    rule, costs = "is a score", score.macs
    if len(costs) != num_exits or not all(isinstance(cost, int) and cost >= 0 for cost in costs):
        violated(rule, f"macs with {num_exits} integers of at least 0, one for each exit", costs)
