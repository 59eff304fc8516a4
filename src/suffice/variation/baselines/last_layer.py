"""Exact covariance under dropout on the inputs of the last linear layer alone.

    logits = W (h ∘ g) + b,    g of mean 1 and variance ρ/(1 − ρ)      ⇒      Cov = W diag(h²) Wᵀ · ρ/(1 − ρ)

No dropout pass is needed. Dropout anywhere earlier in the network is an error, since its effect would be missing.
"""

import torch
from torch import Tensor, nn

from suffice.attach.plain import as_exit_network
from suffice.inputs import prepare
from suffice.network import State, batch_size, call, output_tensor
from suffice.twin import inference
from suffice.variation.baselines.exact import computes_as
from suffice.variation.baselines.moments import PropagatedMoments
from suffice.variation.teachers import sites


def last_layer(model: nn.Module, x: State, rate: float | None = None) -> PropagatedMoments:
    """Return the exact mean and covariance (N, C, C) float64 of a model's outputs under its own dropout.

    Args:
        model: Model that ends with an `nn.Linear` and has dropout on the inputs of that layer only.
        x: N examples, batch first.
        rate: Rate in place of the dropout's own.

    Raises:
        ValueError: If the last linear layer is not found or is a subclass with a forward of its own, or dropout is not
            on its inputs alone.
    """
    with inference(model) as twin:
        return _last_layer(twin, prepare(x, model), rate)


def _last_layer(model: nn.Module, x: State, rate: float | None) -> PropagatedMoments:
    """Compute the moments of a twin.

    The pass with probes shows where dropout acts: it must multiply the inputs h of the classifier, and nothing else,
    by the factors of the gate.
    """
    network = as_exit_network(model, x)
    classifier = network.exit(len(network.exits) - 1).classifier
    if not computes_as(classifier, nn.Linear):
        raise ValueError(
            f"expected an nn.Linear as the last layer, got {type(classifier).__name__} with a forward, hooks or "
            "weights of its own; its covariance is not that of its weight: use MCDropout"
        )
    probes: list[tuple[float, Tensor]] = []
    inputs: list[Tensor] = []

    def gate(site_rate: float, units: Tensor) -> Tensor:
        probe = torch.linspace(1, 2, units.numel(), device=units.device, dtype=units.dtype).view(units.shape)
        probes.append((site_rate, probe))
        return probe

    def record(_layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs.append(args[0])

    chosen = sites.find(model, x, rate, None)
    handle = classifier.register_forward_pre_hook(record)
    try:
        sites.run(model, x, chosen, batch_size(x), gate, sites.refuse_attention)
        mean = output_tensor(call(model, x)).double()
    finally:
        handle.remove()
    multiplied, h = (values.double() for values in inputs)  # of the probes, of the plain pass
    p, probe = probes[0]
    if len(probes) != 1 or probe.shape != h.shape or not torch.allclose(multiplied, h * probe, rtol=1e-3):
        raise ValueError(
            f"expected one dropout, on the inputs of the last linear layer, got {len(probes)} at {chosen.names}; use "
            "MCDropout, or suffice.variation.baselines.moments.propagate for a tower"
        )
    scaled = classifier.weight.double().detach() * h[:, None, :] * (p / (1 - p)) ** 0.5
    return PropagatedMoments(mean, scaled @ scaled.mT)
