"""Variation estimator with its model as a module from tensors to tensors, and its inputs and outputs by name.

inputs of the model  →  output of the model, estimated variation, distance from the inputs of fitting
"""

from typing import Any

import torch
from torch import Tensor, nn

from suffice.deploy.graphs.graph import Graph, GraphModule, Probe
from suffice.deploy.graphs.templates import Template
from suffice.network import output_tensor
from suffice.utils.nest import dotted_leaves
from suffice.variation.estimator import VariationEstimator

FILE, OUTPUT = "estimator", "output"
"""Name of the file without its suffix, and of an output that is one tensor; in a nest, a dot and the place follow."""


class EstimatorModule(GraphModule):
    """Model, the reader of its features, and the small network that estimates the variation.

    Args:
        model: Twin of the estimator's model in evaluation mode (`suffice.twin`).
        estimator: Estimator.
        template: Nest of the inputs, without its tensors.
    """

    def __init__(self, model: nn.Module, estimator: VariationEstimator, template: Template) -> None:
        super().__init__(template)
        self.model = model
        self._reader, self._fitted, self._template = estimator.reader, estimator.fitted_mlp, template

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors of the model's output, then the fields of `Estimate` in their order."""
        output, parts = self._reader.read(self.model, self._template.fill(tensors))
        variation, scaled = self._fitted.estimate(torch.cat(parts, dim=1) if len(parts) > 1 else parts[0])
        results = {"variation": variation, "clipped": scaled.clipped, "distance": self._fitted.distance(scaled.scores)}
        outputs = named_outputs(output)
        return self.note(outputs, {**outputs, **results})


def named_outputs(output: Any) -> dict[str, Tensor]:
    """Return the tensors in the output of a model by name; its logits, if it is an object of another library."""
    leaves = {place: leaf for place, leaf in dotted_leaves(output) if isinstance(leaf, Tensor)}
    if not leaves:
        return {OUTPUT: output_tensor(output)}
    return {f"{OUTPUT}.{place}" if place else OUTPUT: leaf for place, leaf in leaves.items()}


def prepare_estimator(model: nn.Module, estimator: VariationEstimator, before: Probe) -> Graph:
    """Run an estimator on two batches, to find the types and the dynamic axes of its outputs.

    Args:
        model: Twin of the estimator's model.
        estimator: Estimator.
        before: Inputs of the model.

    Raises:
        ValueError: If an output has no row for each example or depends on plain values, or has the name of an input.
    """
    module = EstimatorModule(model, estimator, before.template)
    after, *passes = module.run_twice(before, "the output of the estimator's model")
    if taken := [name for name in before.first if name in passes[0]]:
        raise ValueError(f"expected inputs with other names than outputs, got {taken[0]!r}; rename the key")
    try:
        outputs = before.values_of(*passes)
    except ValueError as error:
        raise ValueError(f"in the output of the estimator's model: {error}") from error
    return Graph("the estimator", FILE, module, before, outputs, after)
