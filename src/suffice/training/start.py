"""Measurement of a network before its training, on the first batch, and the warning if its backbone got worse.

The last exit is the backbone's own output. If it predicts the first batch better than the best constant does, the
network was trained before; if its loss there is higher after the first epoch, the training damages it.

Numbers are trained in units of the targets, as steps that suit targets near 1 do not reach targets in the thousands:
`scale` holds these units. An exit that is no better than a constant starts in them: its outputs are scaled, and shifted
to the mean of the targets.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from suffice.calibration.likelihoods import Name
from suffice.network import ExitNetwork, State
from suffice.storage.parts import POSITIVE, Parts
from suffice.training import losses

_SIGMAS = 2.0
"""Standard errors by which two losses have to differ."""


@dataclass(frozen=True)
class Start:
    """Network before its training.

    Attributes:
        loss: Mean loss of the last exit on the first batch, in evaluation mode; None if it was not measured.
        trained: Whether that loss is below the loss of the best constant prediction, by two standard errors.
        scale: Unit of each output: the standard deviation of its targets, rounded to a power of two; empty for classes.
    """

    loss: float | None = None
    trained: bool = False
    scale: tuple[float, ...] = ()

    @classmethod
    def from_parts(cls, parts: Parts, outputs: int) -> "Start":
        """Read a start from a checkpoint."""
        loss = None if parts.none("loss") else parts.number("loss")
        trained = parts.choice("trained", (True, False))
        scale = parts.numbers("scale", None, POSITIVE)
        if len(scale) not in (0, outputs) or any(math.frexp(value)[0] != 0.5 for value in scale):
            parts.refuse("scale", f"no numbers or {outputs} powers of two", scale)
        return cls(loss, trained, tuple(scale))


def measure(network: ExitNetwork, inputs: State, targets: Tensor, likelihood: Name) -> Start:
    """Measure a network on its first batch, and scale the exits that predict numbers no better than a constant does.

    Args:
        network: Network; only classifiers that are trained may change.
        inputs: Inputs of N examples.
        targets: Their targets, as the likelihood reads them.
        likelihood: Likelihood of the outputs.
    """
    outputs = _evaluate(network, inputs)
    constant = losses.best_constant(outputs[-1], targets, likelihood)
    of_constant = losses.each(constant, targets, likelihood)
    own = losses.each(outputs[-1], targets, likelihood)
    margin = _SIGMAS * _standard_error(own - of_constant)
    scale = losses.units(targets, likelihood)
    if scale and len(targets) > 1:
        for k, output in enumerate(outputs):
            if not losses.each(output, targets, likelihood).mean() < of_constant.mean():
                _standardize(network.exit(k).classifier, output, constant[0], scale)
    loss = float(own.mean())
    return Start(loss if math.isfinite(loss) else None, bool((own - of_constant).mean() < -margin), scale)


def warn_if_worse(network: ExitNetwork, start: Start, inputs: State, targets: Tensor, likelihood: Name) -> None:
    """Warn if the last exit of a trained network got worse on the first batch, by more than two standard errors."""
    if not start.trained or start.loss is None:
        return
    own = losses.each(_evaluate(network, inputs)[-1], targets, likelihood)
    if not float(own.mean()) <= start.loss + _SIGMAS * _standard_error(own):
        warnings.warn(
            f"the loss of the network's own output, the last exit, rose from {start.loss:.3g} before the training to "
            f"{float(own.mean()):.3g} after the first epoch (on the {len(own)} examples of the first batch): the "
            "training damages what the network had learned. Freeze it (attach_exits(…, freeze=True), or "
            "exits_only=True), or lower the learning rate, such as with "
            "optimizer=AdamWConfig(1e-2, backbone_rate=1e-5)",
            stacklevel=4,
        )


def _standardize(classifier: nn.Linear, output: Tensor, constant: Tensor, scale: tuple[float, ...]) -> None:
    """Scale a classifier with outputs (N, C) to units (C,), and shift them to a mean (C,), as far as it is trained."""
    weight, unit = classifier.weight, output.new_tensor(scale)
    if not weight.requires_grad:
        return
    with torch.no_grad():
        weight.mul_(unit[:, None].to(weight))
        bias: Tensor | None = classifier.bias
        if bias is not None and bias.requires_grad:
            bias.copy_((bias.double() - output.mean(dim=0)) * unit + constant)


def _standard_error(values: Tensor) -> float:
    return float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.inf


def _evaluate(network: ExitNetwork, inputs: State) -> list[Tensor]:
    """Return the outputs of all exits in evaluation mode, and leave modes and random states as they were."""
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    with torch.no_grad(), _evaluation(network), torch.random.fork_rng([device] if device.type == "cuda" else []):
        return [output.double() for output in network(inputs)]


@contextmanager
def _evaluation(network: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
