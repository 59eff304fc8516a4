"""What the gauntlet has to be given of a family of models."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from suffice.network import call
from tests.gauntlet.inputs import Inputs

CLASSES = 3


def logits_of(output: Any) -> Tensor:
    """Return the logits (N, C) in the output of a model."""
    for name in ("logits", "prediction_logits", "prediction_outputs"):
        output = getattr(output, name, output)
    assert isinstance(output, Tensor)
    return output


@dataclass(frozen=True)
class Family:
    """Family of models, with one small member.

    Attributes:
        name: Name in the table.
        group: Heading of the table that it belongs to; the families of a group run together.
        build: Function that builds the model with random weights and `CLASSES` classes.
        inputs: Its inputs.
        at: Modules to attach exits after.
        dropout: Arguments of the teacher; empty for the model's own dropout.
        layer: Layer to read by its name; empty for the first linear one in the last of `at`.
    """

    name: str
    group: str
    build: Callable[[], nn.Module]
    inputs: Inputs
    at: tuple[str, ...]
    dropout: Mapping[str, Any] = field(default_factory=dict)
    layer: str = ""

    def model(self) -> nn.Module:
        """Build the model in evaluation mode, with the same weights in every process.

        The weights of its classifier are drawn wide, as those of a trained one, so that predictions depend on inputs.
        """
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = self.build().eval()
            for module in model.modules():
                if isinstance(module, nn.Linear) and module.out_features == CLASSES:
                    nn.init.normal_(module.weight, std=module.in_features**-0.5 * 3)
            self._normalize(model)
        return model

    @torch.no_grad()
    def _normalize(self, model: nn.Module) -> None:
        """Take the statistics of batch normalizations from some inputs, as training does."""
        norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.momentum = None
            norm.train()
        if norms:
            call(model, self.inputs.batch(self.inputs.examples(32, seed=0)))
        for norm in norms:
            norm.eval()
