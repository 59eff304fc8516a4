"""Predictions of a served network with calibrated exits, alone and as an ensemble."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from suffice.calibration import ensemble as mie
from suffice.calibration.exits import CalibratedExit, with_bias
from suffice.calibration.serving.sampling import ExitFeatures
from suffice.calibration.serving.served import Served
from suffice.network import State, check_finite
from suffice.prediction import AnyPrediction
from suffice.utils.modes import full_precision


@dataclass(frozen=True)
class Predictor:
    """Exits of a served network and the ensemble that they form.

    Attributes:
        served: Served network.
        exits: Calibrated exits, K of them.
        ensemble: How exit k combines the exits up to k: "average", "product", or False for exit k alone.
        weights: Weights of the exits in the ensemble, K numbers.
    """

    served: Served
    exits: Sequence[CalibratedExit]
    ensemble: mie.Combination
    weights: Sequence[float]

    @torch.no_grad()
    def predictions(self, x: State) -> Iterator[Any]:
        """Yield the prediction of each exit as soon as it is computed."""
        members: list[Any] = []
        state, running, streak = x, None, None
        for k in range(len(self.exits)):
            state, member, running = self.advance(k, state, running)
            members.append(member)
            prediction = member if running is None else running.prediction(tuple(members))
            prediction, streak = prediction.count_streak(streak)
            yield prediction

    def advance(
        self, k: int, state: State, running: mie.Running | None, positions: Tensor | None = None
    ) -> tuple[State, AnyPrediction, mie.Running | None]:
        """Run stage k and exit k; return the state, the prediction of exit k alone, and the averages up to exit k."""
        state, phi, outputs = self.served.output(k, state, positions)
        member, running = self.predict(k, phi, outputs, running, positions)
        return state, member, running

    @full_precision()
    def predict(
        self, k: int, phi: Tensor, outputs: Tensor, running: mie.Running | None, positions: Tensor | None = None
    ) -> tuple[AnyPrediction, mie.Running | None]:
        """Return the prediction of exit k alone from its features and outputs, and the averages up to exit k."""
        dtype = torch.promote_types(phi.dtype, torch.float32)
        member = self.exits[k].predict(phi.to(dtype), outputs.to(dtype))
        check_finite(member.soundness, f"predictions at exit {k}", positions=positions)
        if self.ensemble:
            running = mie.extend(running, member, self.weights[k], self.ensemble == "product")
        return member, running

    def features(self, x: State) -> Iterator[ExitFeatures]:
        """Yield every exit with its φ (N, D), the constant of a bias included, and its outputs with a posterior."""
        state, latents = x, self.exits[-1].likelihood.latents(self.served.network.num_classes)
        for k, exit_ in enumerate(self.exits):
            state, phi, outputs = self.served.output(k, state)
            yield exit_, with_bias(phi, exit_.bias), outputs[:, :latents]
