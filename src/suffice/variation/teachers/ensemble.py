"""Variation over an ensemble of independently trained networks (Chen et al. 2021, arXiv 2008.07032)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from suffice.attach.determinism import check_deterministic
from suffice.inputs import prepare
from suffice.network import State, call
from suffice.twin import inference
from suffice.variation.teachers import spreads
from suffice.variation.teachers.spreads import LikelihoodName, Variation


@dataclass(frozen=True)
class EnsembleTeacher:
    """Teacher that measures how much independently trained networks differ, with one pass of each.

    This is the target of Chen et al. 2021 (arXiv 2008.07032). The model that is passed to the call is the one to be
    served: its deterministic forward pass determines the top class. It is a member only if it is among `models`.

    Attributes:
        models: At least two networks with outputs of one shape, on one device.
        likelihood: Meaning of their outputs.

    Example:
        >>> import torch, suffice
        >>> _ = torch.manual_seed(0)
        >>> models = [torch.nn.Linear(3, 4) for _ in range(5)]
        >>> variation = suffice.EnsembleTeacher(models)(models[0], torch.randn(8, 3))
        >>> variation["std"].shape, variation.passes
        (torch.Size([8]), 5)
    """

    models: Sequence[nn.Module]
    likelihood: LikelihoodName = "classification"

    def __post_init__(self) -> None:
        listed = isinstance(self.models, Sequence) and all(isinstance(model, nn.Module) for model in self.models)
        if not listed and not isinstance(self.models, nn.ModuleList):
            raise TypeError(f"expected a list of models, got {type(self.models).__name__}; pass [first, second, …]")
        if len(self.models) < 2:
            raise ValueError(f"expected at least 2 models, got {len(self.models)}; a spread needs two")
        spreads.check_likelihood(self.likelihood)

    def __call__(self, model: nn.Module, x: State, *, generator: torch.Generator | None = None) -> Variation:
        """Return the variation over the members for a batch; the generator is not used.

        Raises:
            ValueError: If outputs are not finite, or differ in shape from those of the model, or if a model is not
                deterministic in evaluation mode.
        """
        sums = spreads.init(self._outputs(model, x), self.likelihood)
        for member in self.models:
            outputs, expected = self._outputs(member, x), sums.deterministic["value"].shape
            if outputs.shape != expected:
                raise ValueError(
                    f"expected members with an output of shape {tuple(expected)}, as the model's, "
                    f"got {tuple(outputs.shape)}; use networks for the same task"
                )
            sums = spreads.update(sums, outputs[None])
        return spreads.variation(sums)

    def _outputs(self, model: nn.Module, x: State) -> Tensor:
        x = prepare(x, model)
        with inference(model) as model:
            check_deterministic(model, x)
            return spreads.finite_outputs(call(model, x), self.likelihood)
