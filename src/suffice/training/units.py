"""Training of classifiers in units of their targets: steps of one length suit targets of any scale.

    W = diag(s) V,   b = diag(s) a,   the optimizer sees V, a and their gradients diag(s) ∂W, diag(s) ∂b

The network itself stays in the targets' own unit, so a look at it during the training sees its real outputs. The units
s are powers of two, so the conversion is exact and a resumed training continues with the same bytes.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from suffice.network import ExitNetwork


class TargetUnits:
    """Trained parameters of all classifiers, in units of the targets.

    Args:
        network: Network, on the device of the training.
        parameters: Parameters to train.
        scale: Unit s of each output (C,); empty if nothing is converted.
        squared: Whether the loss is in the targets' unit squared.

    Attributes:
        parameters: Parameters for the optimizer: V and a in place of W and b.
        loss_unit: Unit of the loss, the square of the largest unit if it is squared.
    """

    def __init__(
        self,
        network: ExitNetwork,
        parameters: Iterable[nn.Parameter],
        scale: tuple[float, ...] = (),
        squared: bool = False,
    ) -> None:
        owned = (
            {p for k in range(len(network.exits)) for p in network.exit(k).classifier.parameters()} if scale else set()
        )
        self._pairs: list[tuple[nn.Parameter, nn.Parameter, Tensor]] = []
        self.parameters: list[nn.Parameter] = []
        self.loss_unit = max(scale, default=1.0) ** 2 if squared else 1.0
        for parameter in parameters:
            if parameter in owned and len(parameter) == len(scale):
                unit = parameter.new_tensor(scale).reshape(-1, *[1] * (parameter.ndim - 1))
                self._pairs.append((parameter, nn.Parameter(parameter.detach() / unit), unit))
                parameter = self._pairs[-1][1]
            self.parameters.append(parameter)

    @property
    def converted(self) -> dict[nn.Parameter, nn.Parameter]:
        """Parameters for the optimizer by the network's parameters that they stand for."""
        return {parameter: proxy for parameter, proxy, _ in self._pairs}

    def zero_grad(self) -> None:
        """Clear the gradients of the network's parameters that the optimizer does not hold."""
        for parameter, _, _ in self._pairs:
            parameter.grad = None

    @contextmanager
    def step(self) -> Iterator[None]:
        """Convert the gradients before the body, a step of the optimizer, and the parameters after it."""
        for parameter, proxy, unit in self._pairs:
            proxy.grad = None if parameter.grad is None else parameter.grad * unit
        yield
        with torch.no_grad():
            for parameter, proxy, unit in self._pairs:
                parameter.copy_(proxy * unit)

    def reload(self) -> None:
        """Read the parameters of the network again, after a checkpoint was loaded into it."""
        with torch.no_grad():
            for parameter, proxy, unit in self._pairs:
                proxy.copy_(parameter / unit)
