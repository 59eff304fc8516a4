"""The exact case: dropout on the inputs of the last linear layer alone.

    logits = W (h ∘ g) + b,    g of mean 1 and variance ρ/(1 − ρ)      ⇒      Cov = W diag(h²) Wᵀ · ρ/(1 − ρ)

so no pass is needed. Any dropout earlier in the network is refused: it would not be counted.
"""

import torch
from torch import Tensor, nn

from suffice.attach.plain import as_exit_network
from suffice.network import State, batch_size, call, output_tensor
from suffice.twin import inference
from suffice.variation.baselines.moments import Moments
from suffice.variation.teachers import sites


def last_layer(model: nn.Module, x: State, rate: float | None = None) -> Moments:
    """Exact mean and covariance (N, C, C) float64 of a model's outputs under its own dropout.

    Args:
        model: its answer is the output of an `nn.Linear`, and its only dropout is on the inputs of that layer.
        x: N examples, on the model's device.
        rate: in place of the dropout's own.

    Raises:
        ValueError: if the last linear layer is not found, or dropout is not on its inputs alone.
    """
    with inference(model) as twin:
        return _last_layer(twin, x, rate)


def _last_layer(model: nn.Module, x: State, rate: float | None) -> Moments:
    """Of a twin."""
    network = as_exit_network(model, x)
    classifier = network.exit(len(network.exits) - 1).classifier
    probes: list[tuple[float, Tensor]] = []
    inputs: list[Tensor] = []

    def gate(own: float, units: Tensor) -> Tensor:
        ramp = torch.linspace(1, 2, units.numel(), device=units.device, dtype=units.dtype)
        probes.append((own, ramp.view(units.shape)))
        return probes[-1][1]

    def keep(_layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs.append(args[0])

    handle = classifier.register_forward_pre_hook(keep)
    try:
        chosen = sites.find(model, x, rate, None)
        sites.run(model, x, chosen, batch_size(x), gate, sites.refuse_attention)
        mean = output_tensor(call(model, x)).double()
    finally:
        handle.remove()
    _, multiplied, h = (values.double() for values in inputs)
    p, probe = probes[0]
    if len(probes) != 1 or probe.shape != h.shape or not torch.allclose(multiplied, h * probe, rtol=1e-3):
        raise ValueError(
            f"expected one dropout, on the inputs of the last linear layer, got {len(probes)} at {chosen.names}; use "
            "MCDropout, or moments.propagate for a tower"
        )
    scaled = classifier.weight.double().detach() * h[:, None, :] * (p / (1 - p)) ** 0.5
    return Moments(mean, scaled @ scaled.mT)
