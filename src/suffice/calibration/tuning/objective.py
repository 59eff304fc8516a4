"""Objective of tuning: cached validation data and the ensemble that predicts for them.

The caches are computed once, so that the network does not run again while values are tuned.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from suffice import cost
from suffice.batches import Batch, Loader
from suffice.calibration import likelihoods
from suffice.calibration.ensemble import extend
from suffice.calibration.exits import CalibratedExit
from suffice.calibration.statistics import exit_pass
from suffice.cost import Costs
from suffice.network import ExitNetwork, State, check_finite
from suffice.twin import inference

_TERMS = 1 << 23
"""Exponentials in memory at once, over all exits: about 200 MB in float32 with the tensors of their gradient."""


@dataclass(frozen=True)
class Cache:
    """Validation data at one exit.

    Attributes:
        logits: Outputs of the classifier, (N, C).
        spectrum: Posterior's spectrum of φ, N rows, if the link uses it.
    """

    logits: Tensor
    spectrum: Tensor | None


@dataclass(frozen=True)
class Objective:
    """Data that exits are tuned on, and how their predictions are combined.

    Attributes:
        caches: Validation data at each exit, K caches; empty without validation data.
        targets: Labels (N,) or targets (N, C) of the validation data; empty without validation data.
        weights: Weights of the exits in the ensemble, K numbers; None without an ensemble.
        product: Whether the ensemble averages log-probabilities, not probabilities.
        classifiers: Trained weights W (C, D) of each exit, from `classifier_weights`, for the evidence.

    Raises:
        ValueError: If the numbers of exits or of examples differ.
    """

    caches: Sequence[Cache] = ()
    targets: Tensor = field(default_factory=lambda: torch.empty(0))
    weights: Sequence[float] | None = None
    product: bool = False
    classifiers: Sequence[Tensor] = ()

    def __post_init__(self) -> None:
        num_exits = {len(each) for each in (self.caches, self.weights or (), self.classifiers) if each}
        if len(num_exits) > 1:
            raise ValueError(f"expected caches, weights and classifiers of equally many exits, got {num_exits}")
        examples = [len(cache.logits) for cache in self.caches]
        if any(number != len(self.targets) for number in examples):
            raise ValueError(f"expected one target per example, got {len(self.targets)} for {examples} examples")

    def nll(self, exits: Sequence[CalibratedExit], rows: Tensor) -> Tensor:
        """Return the NLL (M,) of the targets of the examples `rows` (M,), summed over the predictions at all exits."""
        targets = self.targets[rows]
        total = torch.zeros(len(rows), dtype=torch.float64, device=targets.device)
        running = None
        for k, (exit_, cache) in enumerate(zip(exits, self.caches, strict=True)):
            spectrum = None if cache.spectrum is None else cache.spectrum[rows]
            prediction = exit_.member(cache.logits[rows], spectrum)
            if self.weights is not None:
                weight = self.weights[k] if exit_.weight is None else exit_.weight
                running = extend(running, prediction, weight, self.product)
                prediction = running.prediction()
            total = total + exit_.likelihood.nll(prediction, targets).double()
        return total

    def every(self, step: int) -> "Objective":
        """Return the objective on every `step`-th example."""
        caches = [
            Cache(cache.logits[::step], None if cache.spectrum is None else cache.spectrum[::step])
            for cache in self.caches
        ]
        return replace(self, caches=caches, targets=self.targets[::step])

    def chunks(self, exits: Sequence[CalibratedExit]) -> Iterator[Tensor]:
        """Yield the indices of the examples, in chunks that fit in memory with the tensors of their gradient."""
        terms = (exit_.terms(cache.logits.shape[1]) for exit_, cache in zip(exits, self.caches, strict=True))
        yield from torch.arange(len(self.targets)).split(max(1, _TERMS // sum(terms)))

    def largest_operation(self, exits: Sequence[CalibratedExit]) -> float:
        """Return the number of elements of the largest operation of tuning; infinite on a GPU."""
        if any(cache.logits.device.type != "cpu" for cache in self.caches):
            return math.inf
        pairs = zip(exits, self.caches, strict=True)
        return max(max(_sampled_logits(exit_, cache), _numel(cache.spectrum)) for exit_, cache in pairs)


def read_validation(
    network: ExitNetwork, exits: Sequence[CalibratedExit], loader: Loader, costs: Costs | None
) -> tuple[list[Cache], Tensor, Costs]:
    """Run the network on the validation data; the loader is read once.

    Returns:
        The cache of every exit, the targets, and the costs of the network, counted at the first batch if None.

    Raises:
        ValueError: If targets are invalid, or inputs, features or outputs are not finite.
    """
    with inference(network) as twin:

        def run(inputs: State, start: int) -> Iterator[tuple[int, Tensor, Tensor]]:
            nonlocal costs
            costs = costs or cost.count(twin, inputs)
            return exit_pass(twin, inputs, start)

        caches, targets = cache(exits, likelihoods.read(loader, twin, exits[0].likelihood), run)
    assert costs is not None
    return caches, targets, costs


def cache(
    exits: Sequence[CalibratedExit],
    labeled: Iterable[tuple[Batch, Tensor]],
    run: Callable[[State, int], Iterable[tuple[int, Tensor, Tensor]]],
) -> tuple[list[Cache], Tensor]:
    """Run labeled batches through the exits, and keep what their predictions are computed from.

    Args:
        exits: Exits, K of them.
        labeled: Batches with their targets.
        run: Function from the inputs of a batch and the position of its first example to the number, the features φ
            (N, D) and the outputs (N, C) of each exit.

    Returns:
        The cache of every exit, and the targets.

    Raises:
        ValueError: If squared features are not finite.
    """
    logits: list[list[Tensor]] = [[] for _ in exits]
    spectra: list[list[Tensor]] = [[] for _ in exits]
    targets = []
    for batch, batch_targets in labeled:
        targets.append(batch_targets)
        for k, phi, outputs in run(batch.inputs, batch.start):
            dtype = torch.promote_types(phi.dtype, torch.float32)
            logits[k].append(outputs.to(dtype))
            if exits[k].uses_posterior:
                spectrum = exits[k].spectrum(phi.to(dtype))
                check_finite(spectrum, f"squared features at exit {k}", batch.start)
                spectra[k].append(spectrum)
    caches = [Cache(torch.cat(z), torch.cat(s) if s else None) for z, s in zip(logits, spectra, strict=True)]
    return caches, torch.cat(targets)


def _sampled_logits(exit_: CalibratedExit, cache: Cache) -> int:
    examples, outputs = cache.logits.shape
    return examples * exit_.terms(outputs)


def _numel(spectrum: Tensor | None) -> int:
    return 0 if spectrum is None else spectrum.numel()
