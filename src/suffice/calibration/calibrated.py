"""A calibrated network: what `calibrate` makes, policies are made for and `run` runs."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from suffice import batches
from suffice.calibration import ensemble as mie
from suffice.calibration.exits import CalibratedExit
from suffice.cost import Costs
from suffice.network import ExitNetwork, State, check_finite
from suffice.plain import described, restored
from suffice.prediction import Prediction


class Calibrated:
    """A network whose every exit says how sure it is. Made by `calibrate`; the network is left in eval mode.

    Attributes:
        network: the network, its weights untouched.
        exits: what was learned about each exit: `posterior`, `prior_precision`, `temperature`.
        ensemble: whether exit k answers with the ensemble of exits up to k.
        costs: multiply-adds per example, the uncertainty's own included.
        network_hash: `fingerprint` of the network's weights.
        digest: SHA-256 of the network's hash and of all that was chosen and tuned; policies keep it.
    """

    def __init__(
        self,
        network: ExitNetwork,
        exits: Sequence[CalibratedExit],
        ensemble: bool,
        costs: Costs,
        network_hash: str,
    ) -> None:
        self.network = network.eval()
        self.exits = tuple(exits)
        self.ensemble = ensemble
        self.costs = costs.with_uncertainty(tuple(exit_.macs for exit_ in exits))
        self.network_hash = network_hash
        self.digest = self._digest()

    @torch.no_grad()
    def __call__(self, x: State) -> list[Prediction]:
        """What would be answered at each exit, first to last; ensembles hold their `members`."""
        members: list[Prediction] = []
        answers: list[Prediction] = []
        for member, running in self._walk(x):
            members.append(member)
            answers.append(member if running is None else running.prediction(tuple(members)))
        return answers

    @torch.no_grad()
    def step(self, k: int, state: State, running: mie.Running | None) -> tuple[State, Prediction, mie.Running | None]:
        """Run stage and exit k: the new state, what is answered at exit k, the ensemble's running sums."""
        state, member, running = self._advance(k, state, running)
        return state, member if running is None else running.prediction(), running

    def to(self, device: torch.device | str) -> "Calibrated":
        """The same, on another device; the network is moved in place, as `nn.Module.to` does."""
        network = self.network.to(device)
        place, dtype = serving_placement(network)
        exits = [exit_.to(place, dtype) for exit_ in self.exits]
        return Calibrated(network, exits, self.ensemble, self.costs, self.network_hash)

    def parts(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Configuration and tensors of an artifact; the network's weights stay with the network."""
        exits, tensors = [], {}
        for k, exit_ in enumerate(self.exits):
            configuration, own = exit_.parts()
            exits.append(configuration)
            tensors.update({f"exit{k}.{name}": tensor for name, tensor in own.items()})
        costs = {"stages": self.costs.stages, "exits": self.costs.exits}
        return {
            "network_hash": self.network_hash,
            **described(self.network),
            "ensemble": self.ensemble,
            "multiply_adds_per_example": costs,
            "exits": exits,
        }, tensors

    @classmethod
    def from_parts(
        cls, configuration: dict[str, Any], tensors: dict[str, Tensor], network: nn.Module | None
    ) -> "Calibrated":
        """The reverse of `parts`, for the network that it was made from.

        Raises:
            TypeError: if the network is missing or is not the kind that was calibrated.
            ValueError: if its weights are not those that were calibrated.
        """
        network = restored(network, configuration)
        device, dtype = serving_placement(network)
        exits = []
        for k, own in enumerate(configuration["exits"]):
            prefix = f"exit{k}."
            mine = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            exits.append(CalibratedExit.from_parts(own, mine).to(device, dtype))
        costs = configuration["multiply_adds_per_example"]
        stages, answers = tuple(costs["stages"]), tuple(costs["exits"])
        return cls(
            network,
            exits,
            configuration["ensemble"],
            Costs(stages, answers, (0,) * len(stages)),
            configuration["network_hash"],
        )

    def _digest(self) -> str:
        tuned = [[exit_.prior_precision, exit_.class_precision, exit_.samples] for exit_ in self.exits]
        return hashlib.sha256(json.dumps([self.parts()[0], tuned]).encode()).hexdigest()

    def _walk(self, x: State) -> Iterator[tuple[Prediction, mie.Running | None]]:
        state, running = x, None
        for k in range(len(self.exits)):
            state, member, running = self._advance(k, state, running)
            yield member, running

    def _advance(
        self, k: int, state: State, running: mie.Running | None
    ) -> tuple[State, Prediction, mie.Running | None]:
        if self.network.training:
            raise RuntimeError("expected the network in evaluation mode, got training mode; call network.eval()")
        state, phi = self.network.advance(k, state)
        logits = self.network.exit(k).classifier(phi)
        check_finite(logits, f"logits at exit {k}")
        dtype = torch.promote_types(phi.dtype, torch.float32)
        member = self.exits[k].predict(phi.to(dtype), logits.to(dtype))
        if self.ensemble:
            running = mie.extend(running, member, member_weights(self.costs)[k])
        return state, member, running


def member_weights(costs: Costs) -> list[float]:
    """Weights of the ensemble's members: cumulative multiply-adds, as a share of the last exit's."""
    return [macs / costs.network[-1] for macs in costs.network]


def serving_placement(network: ExitNetwork) -> tuple[torch.device, torch.dtype]:
    """Where posteriors are served: the network's device, and its type but no less than float32."""
    device, dtype = batches.placement(network)
    return device, torch.promote_types(dtype, torch.float32)
