"""The teacher whose variation is that of networks trained apart (Chen et al. 2021, arXiv 2008.07032)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from suffice.network import State, call
from suffice.twin import inference
from suffice.variation.teachers import spreads
from suffice.variation.teachers.spreads import LikelihoodName, Variation


@dataclass(frozen=True)
class EnsembleTeacher:
    """A teacher: how much networks that were trained apart differ, each giving one pass.

    The target of Chen et al. 2021 (arXiv 2008.07032). The model that is asked is the one to be served: its
    answer ranks the top class. It is no member unless it is among `models`.

    Attributes:
        models: at least two, with answers of one shape, on one device.
        likelihood: what their output is.
    """

    models: Sequence[nn.Module]
    likelihood: LikelihoodName = "classification"

    def __post_init__(self) -> None:
        if len(self.models) < 2:
            raise ValueError(f"expected at least 2 models, got {len(self.models)}; a spread needs two")
        spreads.check_likelihood(self.likelihood)

    def __call__(self, model: nn.Module, x: State, *, generator: torch.Generator | None = None) -> Variation:
        """The variation over the members, for a batch; there is no randomness.

        Raises:
            ValueError: if outputs are not finite, or of another shape than the model's.
        """
        sums = spreads.init(self._output(model, x), self.likelihood)
        for member in self.models:
            output, expected = self._output(member, x), sums.deterministic["value"].shape
            if output.shape != expected:
                raise ValueError(
                    f"expected members with an output of shape {tuple(expected)}, as the model's, "
                    f"got {tuple(output.shape)}; use networks for the same task"
                )
            sums = spreads.update(sums, output[None])
        return spreads.variation(sums)

    def _output(self, model: nn.Module, x: State) -> Tensor:
        with inference(model) as model:
            return spreads.outputs(call(model, x), self.likelihood)
