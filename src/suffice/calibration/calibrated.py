"""A calibrated network: what `calibrate` makes, policies are made for and `run` runs."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from suffice.attach.plain import cut_at_entries, network_entries, restore_network
from suffice.batches import Loader
from suffice.calibration import ensemble as mie
from suffice.calibration.deadline import until_deadline
from suffice.calibration.exits import TEMPERATURES, CalibratedExit, with_bias
from suffice.calibration.likelihoods import Likelihood
from suffice.calibration.posterior.moments import Moments
from suffice.calibration.served import Served, serving_placement
from suffice.calibration.updates import check_wider, wider_costs, with_more_classes, with_more_data
from suffice.cost import Costs
from suffice.network import ExitNetwork, State, batch_size, check_finite, placement
from suffice.prediction import AnyPrediction
from suffice.storage.fingerprint import fingerprint
from suffice.storage.parts import INVERTIBLE, Parts, Range, prefixed
from suffice.utils.modes import default_modes, full_precision


class Calibrated:
    """A network whose every exit says how sure it is. Made by `calibrate`.

    The network runs as a twin in evaluation mode (`suffice.twin`), whatever mode it is in itself, and without the
    caller's autocast.

    Attributes:
        network: the network, its weights untouched.
        exits: what was learned about each exit: `posterior`, `prior_precision`, `temperature`.
        ensemble: whether exit k answers with the exits up to k: True for their average, "product", or False.
        costs: multiply-adds per example, the uncertainty's own included.
        weights: w of the exits that answer together, K numbers; only their ratios matter.
        network_hash: `fingerprint` of the network's weights.
        num_classes: C.
        digest: SHA-256 of the network's hash and of all that was chosen and tuned; policies keep it.
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
        self.ensemble = True if ensemble == "average" else ensemble
        self.costs = costs.with_uncertainty(tuple(exit_.macs for exit_ in self.exits))
        self.weights = [
            share if exit_.weight is None else float(exit_.weight)
            for exit_, share in zip(self.exits, mie.shares_of_cost(costs), strict=True)
        ]
        self.network_hash = network_hash
        self.num_classes = network.num_classes
        self._served = Served(network, network_hash)
        self.digest = self._digest()

    def __repr__(self) -> str:
        """The choices, and of each exit what was tuned and the multiply-adds up to it."""
        ensemble = "average" if self.ensemble is True else self.ensemble
        lines = [f"Calibrated({self.likelihood.name}, {self.num_classes} outputs, ensemble={ensemble!r})"]
        for k, (exit_, macs) in enumerate(zip(self.exits, self.costs.cumulative, strict=True)):
            posterior = "" if exit_.prior_precision is None else f", δ {exit_.prior_precision:.3g} ({exit_.link})"
            lines.append(f"  exit {k}: {macs:,} multiply-adds, T {float(exit_.temperature):.3g}{posterior}")
        return "\n".join(lines)

    def __call__(self, x: State) -> list[Any]:
        """What would be answered at each exit, first to last; ensembles hold their `members`.

        A `Prediction` each, or a `Regression`, as the likelihood is.
        """
        return list(self._answers(x))

    def anytime(self, x: State, deadline_ms: float | None = None) -> Iterator[Any]:
        """The answer of each exit as soon as it is there; stop asking when it is good enough.

        A later exit is better on average, not for every example: `evaluation.monotonicity` measures it.

        Args:
            x: a batch, as for the call.
            deadline_ms: milliseconds from the first answer being asked for. An exit is computed only if it is
                expected in time, its multiply-adds taking as long as those before it did. The first exit is
                always answered, be it late: a late answer is worth more than none.

        Raises:
            ValueError: for a deadline that is not a positive number.
        """
        if deadline_ms is not None and not deadline_ms > 0:
            raise ValueError(f"expected a deadline above 0 milliseconds, got {deadline_ms}; leave it out for none")
        if deadline_ms is None:
            return self._answers(x)
        return until_deadline(self._answers(x), self.costs.cumulative, deadline_ms / 1e3, placement(self.network)[0])

    @torch.no_grad()
    def _answers(self, x: State) -> Iterator[Any]:
        batch_size(x)  # refuses what is no batch before a layer of the network does in its own words
        members: list[Any] = []
        state, running, streak = x, None, None
        for k in range(len(self.exits)):
            state, member, running = self._advance(k, state, running)
            members.append(member)
            answer = member if running is None else running.prediction(tuple(members))
            answer, streak = answer.count_streak(streak)
            yield answer

    @torch.no_grad()
    def step(
        self, k: int, state: State, running: mie.Running | None, positions: Tensor | None = None
    ) -> tuple[State, AnyPrediction, mie.Running | None]:
        """Run stage and exit k: the new state, what is answered at exit k, the ensemble's running sums.

        Where examples have left the batch, `positions` (N,) says which row is whose, for messages; −1 is nobody's.
        """
        state, member, running = self._advance(k, state, running, positions)
        return state, member if running is None else running.prediction(), running

    @torch.no_grad()
    @full_precision()
    def moments(self, x: State) -> list[Moments]:
        """Mean and variance of the logits of every exit under its posterior, both (N, C), before any temperature.

        Of a regression, of its means.

        Raises:
            ValueError: for exits without a posterior, and for a variance that is not finite.
        """
        found = [exit_.require_posterior().moments(phi, outputs) for exit_, phi, outputs in self._features(x)]
        for k, moments in enumerate(found):
            check_finite(moments.variance, f"variances at exit {k}")
        return found

    @torch.no_grad()
    @full_precision()
    def joint_samples(self, x: State, samples: int, *, generator: torch.Generator | None = None) -> list[Tensor]:
        """Logits (N, S, C) of every exit, before any temperature, joint over the batch.

        Each of the S samples draws the weights of a classifier once, for all N examples, so that the covariance
        between examples is the posterior's: what choosing a batch to label needs. (Predictions use fixed offsets,
        which are joint over the classes of one example only.) The same state of the generator draws the same
        weights, whatever the batch. Probabilities are `(logits / calibrated.exits[k].temperature).softmax(-1)`. Of
        a regression they are samples of its means.

        Raises:
            ValueError: for exits without a posterior, for fewer samples than 1, and for samples that are not finite.
        """
        if samples < 1:
            raise ValueError(f"expected at least 1 sample, got {samples}")
        drawn = []
        for exit_, phi, outputs in self._features(x):
            deviations = exit_.require_posterior().joint_samples(phi, samples, generator=generator)
            drawn.append(outputs[:, None] + deviations)
            check_finite(drawn[-1], f"samples at exit {len(drawn) - 1}")
        return drawn

    def with_prior(self, prior_precision: float | Sequence[float]) -> "Calibrated":
        """The same with other prior precisions δ > 0, one for all exits or one for each; nothing is fitted again.

        Raises:
            ValueError: for δ that are not above 0, another number of them, or exits without a posterior.
        """
        deltas = self._for_each_exit("prior_precision", prior_precision, INVERTIBLE)
        return self._with([exit_.with_prior(delta) for exit_, delta in zip(self.exits, deltas, strict=True)])

    def with_temperature(self, temperature: float | Sequence[float]) -> "Calibrated":
        """The same with other temperatures T > 0, one for all exits or one for each.

        Raises:
            ValueError: for T that are not above 0, or another number of them.
        """
        values = self._for_each_exit("temperature", temperature, TEMPERATURES)
        return self._with([exit_.with_temperature(T) for exit_, T in zip(self.exits, values, strict=True)])

    @default_modes()
    def update(self, loader: Loader) -> "Calibrated":
        """The same with more training data: what fitting them with all earlier data gives, at the same δ, T and noise.

        Args:
            loader: batches as in `calibrate`, of new data only; read once. Labels are not used.

        Returns:
            A new `Calibrated`. Earlier data are taken from the posterior, which is kept in float64.

        Raises:
            ValueError: for exits without a posterior, weights that changed since, and as `calibrate` does.
        """
        self.check_weights()
        return self._with(with_more_data(self.exits, self.network, loader))

    @default_modes()
    def with_classes(self, network: nn.Module, *, generator: torch.Generator | None = None) -> "Calibrated":
        """The same for a network whose classifiers have further classes behind those that they had.

        What was learned about the old classes is kept; the weights of a new one have their prior only, of relative
        precision 1, until `update` shows examples to the wider network.

        Args:
            network: as the calibrated one (a plain model where that was one), its weights the same but for rows
                behind those of every classifier.
            generator: randomness of the sampled link, drawn anew as a sample is of all classes at once.

        Raises:
            TypeError: if the network is not the kind that was calibrated.
            ValueError: if it has no more classes, or other weights, or its outputs are not a logit for each class.
            MemoryError: for a structure that would not fit.
        """
        if not self.likelihood.widens:
            raise ValueError(
                f"expected likelihood 'classification', whose outputs are classes, got {self.likelihood.name!r}; "
                "calibrate again"
            )
        wider = cut_at_entries(network, network_entries(self.network))
        check_wider(wider, self.num_classes, self.network_hash)
        exits = with_more_classes(self.exits, wider, generator)
        costs = wider_costs(self.costs, wider, wider.num_classes - self.num_classes)
        return Calibrated(wider, exits, self.ensemble, costs, fingerprint(wider))

    @torch.no_grad()
    @full_precision()
    def logit_samples(self, x: State) -> Tensor:
        """The fixed samples (S, N, C) of the last exit's logits that its answers average, before any temperature.

        Their second moments are the posterior's, but for what no softmax sees: deviations are centred over the classes.

        Raises:
            ValueError: if the last exit does not answer from samples, and for samples that are not finite.
        """
        *_, (exit_, phi, logits) = self._features(x)
        if exit_.posterior is None or exit_.offsets is None:
            raise ValueError(
                f"expected a sampled posterior at the last exit, got link={exit_.link!r}; calibrate with one"
            )
        coefficients = exit_.posterior.coefficients(exit_.posterior.spectrum(phi), exit_.offsets)
        samples = logits + torch.einsum("nr,rsc->snc", coefficients, exit_.offsets.values)
        check_finite(samples.movedim(1, 0), "samples")
        return samples

    def to(self, device: torch.device | str) -> "Calibrated":
        """The same, on another device; the network is moved in place, as `nn.Module.to` does."""
        self.network.to(device)
        return self._with(self.exits)

    def check_weights(self) -> None:
        """Raise a ValueError unless the network's weights are, to the byte, those that were calibrated."""
        self._served.seal.check_weights()

    def check_network(self) -> None:
        """Raise a ValueError if the network is known to be another than was calibrated, as each use does."""
        self._served.seal.check()

    @property
    def likelihood(self) -> Likelihood:
        """What the network's outputs say about a target, at the last exit."""
        return self.exits[-1].likelihood

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Configuration and tensors of an artifact; the network's weights stay with the network."""
        exits, tensors = [], dict[str, Tensor]()
        for k, exit_ in enumerate(self.exits):
            configuration, own = exit_.parts()
            exits.append(configuration)
            tensors |= prefixed(f"exit{k}.", own)
        costs = {"stages": self.costs.stages, "exits": self.costs.exits}
        return {
            "network_hash": self.network_hash,
            **network_entries(self.network),
            "ensemble": self.ensemble,
            "multiply_adds_per_example": costs,
            "exits": exits,
            "structure": self._served.seal.structure,
        }, tensors

    @classmethod
    def from_parts(cls, parts: Parts, network: nn.Module | None) -> "Calibrated":
        """The reverse of `parts`, for the network that it was made from.

        Raises:
            TypeError: if the network is missing or is not the kind that was calibrated.
            ValueError: if its weights are not those that were calibrated, modules of torch's in it are others, or a
                part is not what it can be.
        """
        network, network_hash = restore_network(network, parts)
        parts.floating = serving_placement(network)[1]
        each = parts.each("exits", "exit")
        if len(each) != len(network.exits):
            parts.refuse("exits", f"{len(network.exits)}, one for each of the network's", len(each))
        classifiers = [network.exit(k).classifier for k in range(len(each))]
        exits = [CalibratedExit.from_parts(*pair) for pair in zip(each, classifiers, strict=True)]
        ensemble: mie.Ensemble = parts.choice("ensemble", (True, False, "product"))
        costs = Costs.from_parts(parts.inner("multiply_adds_per_example"), len(exits))
        _check_alike(parts, exits, ensemble)
        return cls(network, exits, ensemble, costs, network_hash)

    @default_modes()
    def _with(self, exits: Sequence[CalibratedExit]) -> "Calibrated":
        return Calibrated(self.network, exits, self.ensemble, self.costs, self.network_hash)

    def _for_each_exit(self, name: str, given: float | Sequence[float], within: Range) -> list[float]:
        values = list(given) if isinstance(given, Sequence) else [given] * len(self.exits)
        if len(values) != len(self.exits) or not all(within.holds(float(value)) for value in values):
            raise ValueError(
                f"expected a {name} above 0, or {len(self.exits)} of them, one for each exit, {within}, got {given}"
            )
        return values

    def _digest(self) -> str:
        tuned = [
            [exit_.prior_precision, exit_.class_precision, exit_.samples, exit_.noise_variance] for exit_ in self.exits
        ]
        configuration = {key: value for key, value in self.parts()[0].items() if key != "structure"}
        return hashlib.sha256(json.dumps([configuration, tuned]).encode()).hexdigest()

    def _advance(
        self, k: int, state: State, running: mie.Running | None, positions: Tensor | None = None
    ) -> tuple[State, AnyPrediction, mie.Running | None]:
        state, phi, outputs = self._served.output(k, state, positions)
        member, running = self.predict(k, phi, outputs, running, positions)
        return state, member, running

    @full_precision()
    def predict(
        self, k: int, phi: Tensor, outputs: Tensor, running: mie.Running | None, positions: Tensor | None = None
    ) -> tuple[AnyPrediction, mie.Running | None]:
        """What the posterior, its link and the ensemble add at exit k: its own prediction and the sums up to it.

        Raises:
            ValueError: for a prediction that is not finite, as where squares of features are beyond their type.
        """
        dtype = torch.promote_types(phi.dtype, torch.float32)
        member = self.exits[k].predict(phi.to(dtype), outputs.to(dtype))
        check_finite(member.soundness, f"predictions at exit {k}", positions=positions)
        if self.ensemble:
            running = mie.extend(running, member, self.weights[k], self.ensemble == "product")
        return member, running

    def _features(self, x: State) -> Iterator[tuple[CalibratedExit, Tensor, Tensor]]:
        """Every exit with its φ (N, D), the bias's constant behind it, and the outputs (N, C) with a posterior."""
        state, latents = x, self.likelihood.latents(self.num_classes)
        for k, exit_ in enumerate(self.exits):
            state, phi, outputs = self._served.output(k, state)
            yield exit_, with_bias(phi, exit_.bias), outputs[:, :latents]


def _check_alike(parts: Parts, exits: Sequence[CalibratedExit], ensemble: mie.Ensemble) -> None:
    """Raise a ValueError for exits that one calibration cannot have given, or that cannot answer together."""
    kinds = {
        (exit_.likelihood.name, exit_.link, exit_.posterior and exit_.posterior.structure, exit_.weight is not None)
        for exit_ in exits
    }
    if len(kinds) > 1:
        parts.refuse("exits", "of one likelihood, link and structure, all with a weight or none", kinds)
    (name, *_, weighted) = kinds.pop()
    if weighted and not ensemble:
        parts.refuse("exits", "without weights where they do not answer together", "weights")
    if ensemble == "product" and name not in ("classification", "binary"):
        parts.refuse("ensemble", f"true or false with likelihood {name!r}", ensemble)
