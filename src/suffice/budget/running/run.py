"""Run a policy: finished examples leave the batch, the others continue.

The answers of `run` are those of computing every exit and choosing one per example: examples do not interact, and the
ensemble's running sums travel with those that continue.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from suffice.budget import scores as scoring
from suffice.budget import walk
from suffice.budget.coin import coin_of
from suffice.budget.policy import Policy
from suffice.budget.prices import price
from suffice.budget.sets import Intervals, LabelSets, SetRule
from suffice.budget.walk import Finished, InFlight
from suffice.calibration.calibrated import Calibrated
from suffice.inputs import prepare
from suffice.network import State
from suffice.prediction import concatenate
from suffice.utils import arguments


@dataclass(frozen=True)
class Answer:
    """Predictions of a batch under a policy, in the order of its examples, with their exits and costs.

    Attributes:
        prediction: Prediction of the exit where each example stopped, a `Prediction`, a `Multilabel` or a
            `Regression`. Its properties are available on the answer too.
        exit: Number of that exit (N,), int64, counted from 0.
        macs: Multiply-adds spent on each example (N,), including those of the uncertainty and of padding, int64. They
            are counted once for inputs of each shape.
        scores: Scores (N, K − 1) at the exits up to this one, but never at the last exit of the network, float64; NaN
            elsewhere.
        set: Prediction set of each example, with the coverage that `conformalize` was given; None without it.
    """

    prediction: Any
    exit: Tensor
    macs: Tensor
    scores: Tensor
    set: LabelSets | Intervals | None = None

    def __repr__(self) -> str:
        """Describe in one line how many examples stopped at which exit, and their mean cost."""
        exits, counts = (values.tolist() for values in self.exit.unique(return_counts=True))
        stopped = ", ".join(f"{count:,} at exit {k}" for k, count in zip(exits, counts, strict=True))
        mean = f", {float(self.macs.double().mean()):,.0f} multiply-adds each" if exits else ""
        return f"Answer({len(self.exit):,} examples{': ' if stopped else ''}{stopped}{mean})"

    @property
    def probs(self) -> Tensor:
        """Probabilities (N, C) of the classes, or of each label."""
        return self._field("probs")

    @property
    def label(self) -> Tensor:
        """Most probable class (N,), or 0 or 1 for each label (N, K), int64."""
        return self._field("label")

    @property
    def confidence(self) -> Tensor:
        """Greatest probability (N,), or the expected share of labels that are right."""
        return self._field("confidence")

    @property
    def entropy(self) -> Tensor:
        """Total uncertainty (N,) in nats."""
        return self._field("entropy")

    @property
    def aleatoric(self) -> Tensor:
        """Expected entropy (N,) in nats."""
        return self._field("aleatoric")

    @property
    def epistemic(self) -> Tensor:
        """Entropy minus aleatoric uncertainty (N,) in nats."""
        return self._field("epistemic")

    @property
    def mean(self) -> Tensor:
        """Mean (N, C) of a regression."""
        return self._field("mean")

    @property
    def variance(self) -> Tensor:
        """Total variance (N, C) of a regression."""
        return self._field("variance")

    def _field(self, name: str) -> Tensor:
        """Return a field of the prediction, or raise an AttributeError that names the fields of its kind."""
        try:
            values: Tensor = getattr(self.prediction, name)
        except AttributeError as error:
            kind = self.prediction.kind
            raise AttributeError(f"expected an answer with {name!r}, got a {kind}; use its {_FIELDS[kind]}") from error
        return values


_FIELDS = {"classification": "probs", "multilabel": "probs", "regression": "mean and variance"}


@torch.no_grad()
def run(calibrated: Calibrated, policy: Policy, x: State, *, buckets: Sequence[int] | None = None) -> Answer:
    """Run a batch under a policy; each example is computed up to the exit where it stops, and no further.

    Finished examples are removed from the batch at once, unless the policy has a profile by which copying the others
    takes longer than computing all; then they stay in the batch and are ignored. The answers are those of
    `calibrated(x)` up to rounding in the network's own kernels, which depends on the batch size: probabilities agree
    to 1e-5 in float32 where logits and their samples are below about 30 times their temperature, and in proportion for
    larger ones and other types.

    Args:
        calibrated: Calibrated network.
        policy: Policy made by `allocate` or `control_risk` for this network.
        x: Batch of N ≥ 1 examples: a tensor or a nest of tensors, batch first.
        buckets: Sizes to which batches are padded, so that a compiled stage gets only these shapes. A batch larger than
            all of them stays as it is. By default batches are not padded.

    Raises:
        TypeError: If the arguments are not a calibrated network, a policy and batch sizes.
        ValueError: If the policy was made for another calibrated network, or logits are not finite; the message names
            their position in x.
        RuntimeError: If the multiply-adds of inputs of a new shape cannot be counted.

    Example:
        >>> import torch
        >>> import suffice
        >>> network, x = suffice.models.convnet(num_classes=3, widths=(4, 8)), torch.rand(200, 1, 8, 8)
        >>> loader = [(x, torch.arange(200) % 3)]
        >>> calibrated = suffice.calibrate(network, None, loader, structure=None, temperature=False)
        >>> policy = suffice.allocate(calibrated, [x], budget=0.8)
        >>> answer = suffice.run(calibrated, policy, x)
        >>> answer.probs.shape, answer.exit.unique().tolist()
        (torch.Size([200, 3]), [0, 1])
    """
    check_policy(calibrated, policy)
    x = prepare(x, calibrated.network)
    sizes, finished = check_buckets(buckets), list[Finished]()
    in_flight = enter(calibrated, policy, x)
    if len(in_flight) < (size := bucket_for(len(in_flight), sizes)) and len(in_flight):
        in_flight = in_flight.padded_to(torch.arange(len(in_flight), device=in_flight.positions.device), size)
    for k in range(len(calibrated.exits)):
        stopped, in_flight, continuing = advance(calibrated, policy, k, in_flight)
        finished += stopped
        if not len(continuing):
            break
        size = bucket_for(len(continuing), sizes)
        if size < len(in_flight) and (policy.profile is None or policy.profile.saves_time(k, len(in_flight), size)):
            in_flight = in_flight.padded_to(continuing, size)
    return in_order(finished, price(calibrated, x, policy.score), policy.sets)


def enter(calibrated: Calibrated, policy: Policy, x: State, start: int = 0) -> InFlight:
    """Return the rows of a batch before the first exit, each with its coin if the policy needs it."""
    x = prepare(x, calibrated.network)
    return walk.begin(calibrated, x, coin_of(calibrated.network, x) if policy.needs_coin else None, start)


def advance(
    calibrated: Calibrated, policy: Policy, k: int, in_flight: InFlight
) -> tuple[list[Finished], InFlight, Tensor]:
    """Run stage and exit k, and split the batch there; see `walk.split_at_exit` for what is returned."""
    score = scoring.resolve(policy.score)
    in_flight, prediction = walk.step(calibrated, k, in_flight, scoring.needs_streak(score))
    if k == len(policy.thresholds):
        return walk.split_at_exit(in_flight, prediction, torch.ones_like(in_flight.positions, dtype=torch.bool), k)
    in_flight = walk.append_scores(in_flight, prediction, score, k)
    stops = policy.stops(k, in_flight.scores[:, k], in_flight.coin)
    return walk.split_at_exit(in_flight, prediction, stops, k)


def bucket_for(size: int, buckets: Sequence[int]) -> int:
    """Return the smallest of the rising `buckets` that holds `size` examples, or `size` itself if none does."""
    return next((bucket for bucket in buckets if bucket >= size), size)


def check_buckets(buckets: Sequence[int] | None) -> list[int]:
    """Return the sizes of padded batches in rising order.

    Raises:
        TypeError: If they are no sequence of whole numbers.
        ValueError: If one is below 1.
    """
    if buckets is not None and (isinstance(buckets, str) or not isinstance(buckets, Sequence)):
        raise TypeError(f"expected buckets as a sequence of batch sizes, such as (8, 32), got {buckets!r}")
    return sorted(arguments.whole("a size in buckets", size) for size in buckets or ())


def check_policy(calibrated: Calibrated, policy: Policy) -> None:
    """Raise an error unless the policy was made for this calibrated network.

    Raises:
        TypeError: If the arguments are not a calibrated network and a policy.
        ValueError: For a policy of another network.
    """
    if not (isinstance(calibrated, Calibrated) and isinstance(policy, Policy)):
        raise TypeError(
            f"expected a Calibrated and then a Policy, got {type(calibrated).__name__} and {type(policy).__name__}; "
            "suffice.calibrate makes the one, suffice.allocate the other"
        )
    policy.check_made_for(calibrated)


def in_order(finished: Sequence[Finished], costs: Sequence[int], rule: SetRule | None = None) -> Answer:
    """Put the examples finished at each exit into the order of their positions.

    Args:
        finished: Finished examples, in any order.
        costs: Cumulative cost of an example that stops at each exit (K), in multiply-adds.
        rule: Rule for the prediction sets, or None.
    """
    answer, coin = _joined(finished, costs)
    return answer if rule is None else replace(answer, set=rule.sets(answer.prediction, answer.exit, coin))


def _joined(finished: Sequence[Finished], costs: Sequence[int]) -> tuple[Answer, Tensor | None]:
    """Return the answer in order, without prediction sets, and the coins (N,) of its examples."""
    exit_index = torch.cat([torch.full_like(part.positions, part.exit) for part in finished])
    width = len(costs) - 1
    scores = torch.cat([pad(part.scores, (0, width - part.scores.shape[1]), value=torch.nan) for part in finished])
    price = torch.tensor(costs, device=exit_index.device)
    coins = [part.coin for part in finished if part.coin is not None]
    coin = torch.cat(coins) if coins else None
    if len(finished) == 1:  # examples that finish together are in order already
        return Answer(finished[0].prediction, exit_index, price[exit_index], scores), coin
    order = torch.cat([part.positions for part in finished]).argsort()
    prediction = concatenate([part.prediction for part in finished]).take(order)
    answer = Answer(prediction, exit_index[order], price[exit_index[order]], scores[order])
    return answer, None if coin is None else coin[order]
