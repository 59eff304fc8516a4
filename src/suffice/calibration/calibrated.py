"""Calibrated networks: the result of `calibrate`, and the input of policies and of `run`."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from suffice.attach.plain import cut_at_entries, network_entries, restore_network
from suffice.batches import Loader
from suffice.calibration import ensemble as mie
from suffice.calibration.exit_parts import ENSEMBLES, check_consistent, digest, read_exits
from suffice.calibration.exits import TEMPERATURES, CalibratedExit, one_per_exit
from suffice.calibration.likelihoods import Likelihood
from suffice.calibration.posterior.moments import Moments
from suffice.calibration.serving import sampling
from suffice.calibration.serving.costs import CostsByShape
from suffice.calibration.serving.deadline import until_deadline
from suffice.calibration.serving.predictor import Predictor
from suffice.calibration.serving.served import Served, serving_placement
from suffice.calibration.updates import check_wider, wider_costs, with_more_classes, with_more_data
from suffice.cost import Costs
from suffice.inputs import prepare
from suffice.network import ExitNetwork, State, placement
from suffice.prediction import AnyPrediction
from suffice.storage.fingerprint import fingerprint
from suffice.storage.parts import INVERTIBLE, Parts, numbered
from suffice.utils import arguments
from suffice.utils.modes import default_modes, full_precision


class Calibrated:
    """Network with a calibrated prediction at every exit. Created by `calibrate`.

    The network runs as a twin in evaluation mode (`suffice.twin`), whatever mode it is in, and without the caller's
    autocast.

    Attributes:
        network: Network with unchanged weights.
        exits: Calibrated exits, each with `posterior`, `prior_precision` and `temperature`.
        ensemble: How exit k combines the exits up to k: "average", "product", or False for exit k alone.
        costs: Multiply-adds per example, including those of the uncertainty, for inputs of the shape of the first that
            were used in `calibrate`; `costs_for` returns those of others.
        weights: Weights w of the exits in the ensemble, K numbers; only their ratios matter.
        network_hash: `fingerprint` of the network's weights.
        num_classes: Number of outputs C.
        digest: SHA-256 of the network's hash and of all choices and tuned values; policies store it.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import suffice
        >>> x, y = torch.randn(60, 4), torch.arange(60) % 3
        >>> stages = [nn.Linear(4, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, 8))]
        >>> network = suffice.ExitNetwork(stages, [suffice.Exit(nn.ReLU(), nn.Linear(8, 3)) for _ in stages])
        >>> calibrated = suffice.calibrate(network, [(x, y)], None, tuning="evidence")
        >>> first, last = calibrated(x)
        >>> tuple(last.probs.shape), tuple(last.epistemic.shape), len(last.members)
        ((60, 3), (60,), 2)
    """

    def __init__(
        self,
        network: ExitNetwork,
        exits: Sequence[CalibratedExit],
        ensemble: mie.Ensemble,
        costs: Costs,
        network_hash: str,
    ) -> None:
        self.network = network
        self.exits = tuple(exit_.to(*serving_placement(network)) for exit_ in exits)
        self.ensemble: mie.Combination = mie.combination(ensemble, self.exits[0].likelihood.discrete)
        self.costs = costs.with_uncertainty(tuple(exit_.macs for exit_ in self.exits))
        self.weights = [
            share if exit_.weight is None else float(exit_.weight)
            for exit_, share in zip(self.exits, mie.shares_of_cost(costs), strict=True)
        ]
        self.network_hash = network_hash
        self.num_classes = network.num_classes
        self._predictor = Predictor(Served(network, network_hash), self.exits, self.ensemble, self.weights)
        self.digest = digest(self.parts()[0], self.exits)
        self._costs_by_shape = CostsByShape(network, self.costs)

    def __repr__(self) -> str:
        """Show the choices, and the tuned values and cumulative multiply-adds of each exit."""
        lines = [f"Calibrated({self.likelihood.name}, {self.num_classes} outputs, ensemble={self.ensemble!r})"]
        for k, (exit_, macs) in enumerate(zip(self.exits, self.costs.cumulative, strict=True)):
            lines.append(f"  exit {k}: {macs:,} multiply-adds, {exit_.summary}")
        return "\n".join(lines)

    def __call__(self, x: State) -> list[Any]:
        """Return the prediction of each exit, first to last.

        Args:
            x: Batch of inputs: a tensor or a nest of tensors, batch first.

        Returns:
            K predictions: `Prediction`, or `Multilabel` for several labels, or `Regression`. Those of an ensemble have
            `members`.

        Raises:
            TypeError: If x contains no batch.
            ValueError: If weights have changed since calibration, or an output or a prediction is not finite.
        """
        return list(self._predictor.predictions(x))

    def anytime(self, x: State, deadline_ms: float | None = None) -> Iterator[Any]:
        """Yield the prediction of each exit as soon as it is computed; later exits run only if requested.

        A later exit is better on average, but not for every example; `evaluation.monotonicity` measures this.

        Args:
            x: Batch of inputs, as for the call.
            deadline_ms: Deadline in milliseconds after the first prediction is requested (default: none). An exit is
                computed only if it is expected in time, with a time proportional to its multiply-adds. The first
                exit is always computed, even if late.

        Raises:
            ValueError: If the deadline is not a positive number.
        """
        if deadline_ms is not None and not arguments.number("deadline_ms", deadline_ms) > 0:
            raise ValueError(f"expected a deadline above 0 milliseconds, got {deadline_ms}; omit it for no deadline")
        predictions = self._predictor.predictions(x)
        if deadline_ms is None:
            return predictions
        return until_deadline(predictions, self.costs.cumulative, deadline_ms / 1e3, placement(self.network)[0])

    @torch.no_grad()
    def step(
        self, k: int, state: State, running: mie.Running | None, positions: Tensor | None = None
    ) -> tuple[State, AnyPrediction, mie.Running | None]:
        """Run stage k and exit k.

        Args:
            k: Number of the exit.
            state: State before stage k.
            running: Averages of the ensemble over the earlier exits; None at the first exit.
            positions: Positions (N,) of the rows in the whole batch, for error messages, where examples have left
                it; rows at −1 hold no example.

        Returns:
            The new state, the prediction at exit k, and the averages up to exit k (None without an ensemble).
        """
        state, member, running = self._predictor.advance(k, state, running, positions)
        return state, member if running is None else running.prediction(), running

    def predict(
        self, k: int, phi: Tensor, outputs: Tensor, running: mie.Running | None, positions: Tensor | None = None
    ) -> tuple[AnyPrediction, mie.Running | None]:
        """Predict at exit k from the features and outputs of the network.

        Args:
            k: Number of the exit.
            phi: Features φ, (N, D).
            outputs: Outputs of the classifier, (N, C).
            running: Averages of the ensemble over the earlier exits; None at the first exit.
            positions: Positions (N,) of the rows in the whole batch, as in `step`.

        Returns:
            The prediction of exit k alone, and the averages up to exit k (None without an ensemble).

        Raises:
            ValueError: If a prediction is not finite, for example because squared features overflow.
        """
        return self._predictor.predict(k, phi, outputs, running, positions)

    @torch.no_grad()
    @full_precision()
    def moments(self, x: State) -> list[Moments]:
        """Return the mean and variance (N, C) of every exit's logits under its posterior, before any temperature.

        For a regression they are those of its means.

        Raises:
            ValueError: If an exit has no posterior, or a variance is not finite.
        """
        return sampling.moments(self._predictor.features(x))

    @torch.no_grad()
    @full_precision()
    def joint_samples(self, x: State, samples: int, *, generator: torch.Generator | None = None) -> list[Tensor]:
        """Sample logits (N, S, C) of every exit, before any temperature, joint over the batch.

        Each of the S samples uses one sample of a classifier's weights for all N examples, so that the covariance
        between examples is that of the posterior, as batch active learning requires. (Predictions use fixed offsets,
        which are joint over the classes of one example only.) The weights depend only on the state of the generator
        and not on the batch. Probabilities are `(logits / calibrated.exits[k].temperature).softmax(-1)`, or
        `.sigmoid()` of one logit or several labels. For a regression these are samples of its means.

        Args:
            x: Batch of inputs, as for the call.
            samples: Number of samples S.
            generator: Generator on the CPU (default: torch's global one).

        Raises:
            ValueError: If an exit has no posterior, `samples` is below 1, or a sample is not finite.
        """
        return sampling.joint_samples(self._predictor.features(x), samples, generator)

    def costs_for(self, x: State) -> Costs:
        """Return the multiply-adds per example of the inputs in batch x, including those of the uncertainty.

        They depend on the shape of the inputs, such as the length of a text with its padding. They are counted when
        inputs of a shape are first seen, by passes of the first and the last example. Costs given to `calibrate` are
        returned for all inputs.

        Raises:
            RuntimeError: If they cannot be counted, because the pass fails for a single example.
        """
        return self._costs_by_shape.of(prepare(x, self.network))

    def with_prior(self, prior_precision: float | Sequence[float]) -> "Calibrated":
        """Return the network with other prior precisions δ > 0, one for all exits or one for each, without a new fit.

        Raises:
            ValueError: If a δ is not above 0, their number is wrong, or an exit has no posterior.
        """
        deltas = one_per_exit("prior_precision", prior_precision, len(self.exits), INVERTIBLE)
        return self._with([exit_.with_prior(delta) for exit_, delta in zip(self.exits, deltas, strict=True)])

    def with_temperature(self, temperature: float | Sequence[float]) -> "Calibrated":
        """Return the network with other temperatures T > 0, one for all exits or one for each.

        Raises:
            ValueError: If a T is not above 0, or their number is wrong.
        """
        values = one_per_exit("temperature", temperature, len(self.exits), TEMPERATURES)
        return self._with([exit_.with_temperature(T) for exit_, T in zip(self.exits, values, strict=True)])

    @default_modes()
    def update(self, loader: Loader) -> "Calibrated":
        """Return the network with posteriors of all earlier and new training data, at the same δ, T and noise.

        Predictions of exits that do not use their posterior, with the link "plugin", stay as they are.

        Args:
            loader: Batches of new data only, as in `calibrate`; read once. Labels are not used.

        Returns:
            A new `Calibrated`. The sums over earlier data are reconstructed from the posterior in float64.

        Raises:
            ValueError: If an exit has no posterior, weights have changed, or `calibrate` would reject the batches.
        """
        self.check_weights()
        return self._with(with_more_data(self.exits, self.network, loader))

    @default_modes()
    def with_classes(self, network: nn.Module, *, generator: torch.Generator | None = None) -> "Calibrated":
        """Return the calibration for a network with additional classes after the calibrated ones.

        The posterior over the weights of the old classes is unchanged. The weights of a new class have their prior,
        of relative precision 1, until `update` adds examples.

        Args:
            network: Network (or plain model) like the calibrated one, with the same weights except for additional
                rows of every classifier.
            generator: Generator of the sampled link, whose samples are joint over all classes and are sampled again.

        Raises:
            TypeError: If the network is of another kind than the calibrated one.
            ValueError: If it has no additional class, other weights differ, or outputs are not one logit per class.
            MemoryError: If the structure would not fit.
        """
        arguments.optional_generator(generator)
        if not self.likelihood.widens:
            raise ValueError(
                "expected likelihood 'classification' or 'multilabel', which can add outputs, got "
                f"{self.likelihood.name!r}; calibrate again"
            )
        wider = cut_at_entries(network, network_entries(self.network))
        check_wider(wider, self.num_classes, self.network_hash)
        exits = with_more_classes(self.exits, wider, generator)
        costs = wider_costs(self.costs, wider, wider.num_classes - self.num_classes)
        return Calibrated(wider, exits, self.ensemble, costs, fingerprint(wider))

    @torch.no_grad()
    @full_precision()
    def logit_samples(self, x: State) -> Tensor:
        """Return the fixed samples (S, N, C) of the last exit's logits that its predictions average.

        They are before any temperature. Their second moments are those of the posterior, after centering over the
        classes of a classification, which does not change a softmax. Several labels are only nearly uncorrelated.

        Raises:
            ValueError: If the last exit has no sampled link, or a sample is not finite.
        """
        return sampling.fixed_samples(list(self._predictor.features(x)))

    def to(self, device: torch.device | str) -> "Calibrated":
        """Return the calibration on another device; the network is moved in place, as `nn.Module.to` does.

        Raises:
            TypeError: For a floating type, which would change the calibrated weights.
        """
        if isinstance(device, torch.dtype):
            raise TypeError(f"expected a device, got {device}; cast the network, and calibrate the cast one")
        self.network.to(device)
        return self._with(self.exits)

    def check_weights(self) -> None:
        """Raise a ValueError unless the network's weights are identical to the calibrated ones; computes their hash."""
        self._predictor.served.seal.check_weights()

    def check_network(self) -> None:
        """Raise a ValueError if the network has visibly changed since calibration; cheap, and part of every use."""
        self._predictor.served.seal.check()

    @property
    def likelihood(self) -> Likelihood:
        """Likelihood of a target given the outputs of the last exit."""
        return self.exits[-1].likelihood

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return the configuration and the tensors of an artifact, without the network's weights."""
        exits, tensors = numbered("exit", [exit_.parts() for exit_ in self.exits])
        return {
            "network_hash": self.network_hash,
            **network_entries(self.network),
            "ensemble": next(stored for stored, ensemble in ENSEMBLES.items() if ensemble == self.ensemble),
            "multiply_adds_per_example": self.costs.parts(),
            "exits": exits,
            "structure": self._predictor.served.seal.structure,
        }, tensors

    @classmethod
    def from_parts(cls, parts: Parts, network: nn.Module | None) -> "Calibrated":
        """Restore a calibrated network from the parts of an artifact and its network.

        Raises:
            TypeError: If the network is missing or is of another kind than the calibrated one.
            ValueError: If its weights or its torch modules differ from the calibrated ones, or a part is invalid.
        """
        network, network_hash = restore_network(network, parts)
        parts.floating = serving_placement(network)[1]
        exits = read_exits(parts, network)
        ensemble = ENSEMBLES[parts.choice("ensemble", tuple(ENSEMBLES))]
        costs = Costs.from_parts(parts.inner("multiply_adds_per_example"), len(exits))
        check_consistent(parts, exits, ensemble)
        return cls(network, exits, ensemble, costs, network_hash)

    @default_modes()
    def _with(self, exits: Sequence[CalibratedExit]) -> "Calibrated":
        return Calibrated(self.network, exits, self.ensemble, self.costs, self.network_hash)
