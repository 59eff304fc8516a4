"""Slopes of activations: the derivative a′(z) of each standard activation a at its input z, in closed form.

With Φ and φ the distribution function and the density of a standard normal, and σ the logistic function

    relu   [z > 0]            tanh      1 − tanh² z            gelu    Φ(z) + z φ(z)
    elu    min(1, eᶻ)         sigmoid   σ(z) (1 − σ(z))        silu    σ(z) (1 + z (1 − σ(z)))

An activation is recognized by its values on a grid, so that parameters other than the default ones are not mistaken.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

Elementwise = Callable[[Tensor], Tensor]
"""Function that maps each element of a tensor by itself."""

_SELU_SCALE, _SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
_TANH_GELU = math.sqrt(2 / math.pi)


@dataclass(frozen=True)
class Activation:
    """Activation with its slope.

    Attributes:
        function: Name of the function of torch that computes it.
        value: a, with default parameters.
        slope: a′; at a kink the slope to the left, as torch takes it.
    """

    function: str
    value: Elementwise
    slope: Elementwise


def _gelu_slope(z: Tensor) -> Tensor:
    below: Tensor = torch.special.ndtr(z)
    return below + z * torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)


def _tanh_gelu_slope(z: Tensor) -> Tensor:
    bent = torch.tanh(_TANH_GELU * (z + 0.044715 * z.pow(3)))
    inner = _TANH_GELU * (1 + 3 * 0.044715 * z.square())
    return 0.5 * (1 + bent) + 0.5 * z * (1 - bent.square()) * inner


def _silu_slope(z: Tensor) -> Tensor:
    logistic = z.sigmoid()
    return logistic * (1 + z * (1 - logistic))


def _mish_slope(z: Tensor) -> Tensor:
    bent = functional.softplus(z).tanh()
    return bent + z * z.sigmoid() * (1 - bent.square())


def _selu_slope(z: Tensor) -> Tensor:
    return _SELU_SCALE * torch.where(z > 0, 1.0, _SELU_ALPHA * z.clamp_max(0).exp())


ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation("", lambda z: z, torch.ones_like),
    "relu": Activation("relu", functional.relu, lambda z: (z > 0).to(z.dtype)),
    "relu6": Activation("relu6", functional.relu6, lambda z: ((z > 0) & (z < 6)).to(z.dtype)),
    "leaky_relu": Activation("leaky_relu", functional.leaky_relu, lambda z: (z > 0).to(z.dtype).clamp_min(0.01)),
    "elu": Activation("elu", functional.elu, lambda z: z.clamp_max(0).exp()),
    "celu": Activation("celu", functional.celu, lambda z: z.clamp_max(0).exp()),
    "selu": Activation("selu", functional.selu, lambda z: _selu_slope(z).to(z.dtype)),
    "gelu": Activation("gelu", functional.gelu, _gelu_slope),
    "gelu_tanh": Activation("gelu", lambda z: functional.gelu(z, approximate="tanh"), _tanh_gelu_slope),
    "silu": Activation("silu", functional.silu, _silu_slope),
    "mish": Activation("mish", functional.mish, _mish_slope),
    "softplus": Activation("softplus", functional.softplus, torch.sigmoid),
    "tanh": Activation("tanh", torch.tanh, lambda z: 1 - torch.tanh(z).square()),
    "sigmoid": Activation("sigmoid", torch.sigmoid, lambda z: z.sigmoid() * (1 - z.sigmoid())),
}
"""Activations by name; "identity" stands for none, "gelu_tanh" for `F.gelu(z, approximate="tanh")`."""


def recognize(function: str, evaluate: Elementwise) -> str | None:
    """Return the name of the activation that a function computes, or None if it is none of `ACTIVATIONS`.

    Args:
        function: Name of the function of torch that is called.
        evaluate: That call, with its parameters, of another input.
    """
    grid = torch.linspace(-8, 8, 129)
    values = evaluate(grid.clone())
    tolerance = torch.finfo(grid.dtype).eps ** 0.75
    for name, activation in ACTIVATIONS.items():
        named = activation.function == function and values.shape == grid.shape
        if named and torch.allclose(values, activation.value(grid), rtol=tolerance, atol=tolerance):
            return name
    return None
