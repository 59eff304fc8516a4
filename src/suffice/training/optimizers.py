"""Choice of the optimizer of a training: settings, an optimizer of torch's, a function that builds one, or the default.

The default depends on what is trained. A backbone that was trained before must not be ruined by exits that know nothing
yet, so its steps are short; a network that starts from random weights needs long ones:

    nothing in the stages, or a trained backbone with its exits    AdamW, 1e-2 for new exits and 1e-4 for the backbone
    a whole network from scratch, classes                          SGD, the recipe of Huang et al. 2018
    a whole network from scratch, numbers                          AdamW, 1e-3

A backbone counts as trained if exits were attached to a model, or if it predicts the first batch better than chance.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from suffice.calibration.likelihoods import Name
from suffice.network import ExitNetwork
from suffice.training import losses
from suffice.training.config import AdamWConfig, SGDConfig, stable_repr
from suffice.training.start import Start
from suffice.training.units import TargetUnits

Optimizer = SGDConfig | AdamWConfig | torch.optim.Optimizer | Callable[[list[nn.Parameter]], torch.optim.Optimizer]
"""Settings, an optimizer of the network's parameters, or a function that builds one, such as `torch.optim.AdamW`."""

FINE_TUNING = AdamWConfig(learning_rate=1e-2, backbone_rate=1e-4)
"""Default for new exits on a trained backbone."""


@dataclass(frozen=True)
class Choice:
    """Optimizer of a training.

    Attributes:
        optimizer: The optimizer.
        units: Units of the parameters that it holds.
        config: Settings with the schedule of the learning rates; None if the user sets these.
        settings: Settings that a checkpoint stores.
        rates: Learning rate of each parameter group before the schedule.
    """

    optimizer: torch.optim.Optimizer
    units: TargetUnits
    config: SGDConfig | AdamWConfig | None
    settings: dict[str, Any]
    rates: tuple[float, ...]

    def set_rates(self, share: float, step: int) -> None:
        """Set the learning rates of a step, unless the user sets them.

        Args:
            share: Finished share of the epochs, in [0, 1).
            step: Number of finished steps of the training.
        """
        if self.config is None:
            return
        factor = self.config.schedule(share)
        if step < self.config.warmup:
            factor *= (step + 1) / self.config.warmup
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor


def choose(
    optimizer: Optimizer | None,
    network: ExitNetwork,
    parameters: list[nn.Parameter],
    *,
    likelihood: Name,
    start: Start,
) -> Choice:
    """Build the optimizer of a training.

    Args:
        optimizer: Argument of `train`; None for the default.
        network: Network to train.
        parameters: Parameters to train.
        likelihood: Likelihood of the outputs.
        start: Measurement of the network before its training.

    Raises:
        TypeError: If `optimizer` is of another kind, or a function does not return an optimizer.
        ValueError: If the optimizer holds none of the parameters to train, or parameters of another network, or needs
            a closure.
    """
    if optimizer is None:
        optimizer = default(network, parameters, likelihood=likelihood, backbone_trained=start.trained)
    config = optimizer if isinstance(optimizer, SGDConfig | AdamWConfig) else None
    scale = () if config is None else start.scale
    units = TargetUnits(network, parameters, scale, squared=likelihood == "regression")
    if config is not None:
        backbone = [*network.stages.parameters(), *(network.exit(-1).parameters() if start.trained else ())]
        built = config.build(units.parameters, [units.converted.get(parameter, parameter) for parameter in backbone])
        settings = config.settings()
    else:
        built = optimizer if isinstance(optimizer, torch.optim.Optimizer) else _build(optimizer, parameters)
        _check(built, network, parameters)
        settings = _describe(built)
    return Choice(built, units, config, settings, tuple(group["lr"] for group in built.param_groups))


def default(
    network: ExitNetwork, parameters: Iterable[nn.Parameter], *, likelihood: Name, backbone_trained: bool
) -> SGDConfig | AdamWConfig:
    """Return the default settings for what is trained."""
    stages = set(network.stages.parameters())
    trains_stages = any(parameter in stages for parameter in parameters)
    if not trains_stages or backbone_trained or _is_cut_from_a_model(network):
        return FINE_TUNING
    return AdamWConfig() if losses.is_numeric(likelihood) else SGDConfig()


def _is_cut_from_a_model(network: ExitNetwork) -> bool:
    """Return whether `suffice.attach` made the network, whose stages then run the modules of a model."""
    return any(type(module).__module__.startswith("suffice.attach.") for module in network.modules())


def _build(make: object, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if make in (SGDConfig, AdamWConfig):
        raise TypeError(f"expected as optimizer {make.__name__}(…), got the class itself; add the brackets")
    built = make(parameters) if callable(make) else None
    if not isinstance(built, torch.optim.Optimizer):
        got = f"{make!r}" if not callable(make) else f"a function that returns {type(built).__name__}"
        raise TypeError(
            "expected as optimizer SGDConfig(…) or AdamWConfig(…), an optimizer such as "
            "torch.optim.AdamW(network.parameters()), or a function from parameters to an optimizer, such as "
            f"torch.optim.AdamW, got {got}"
        )
    return built


def _check(optimizer: torch.optim.Optimizer, network: ExitNetwork, parameters: list[nn.Parameter]) -> None:
    held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    name = type(optimizer).__name__
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError(f"expected an optimizer that steps without a closure, got {name}; use torch.optim.AdamW")
    foreign = len(held - set(network.parameters()))
    if foreign:
        raise ValueError(
            f"expected an optimizer of the network's own parameters, got {name} with {foreign} others; build it from "
            "network.parameters() after exits are attached and the network is on its device"
        )
    wanted = set(parameters)
    missing = [
        k for k, exit_ in enumerate(network.exits) if (own := wanted & set(exit_.parameters())) and not own & held
    ]
    if missing or not held & wanted:
        raise ValueError(
            f"expected an optimizer of the parameters to train, got {name} without those of exits {missing}; build it "
            "from network.parameters(), or freeze what is not to be trained with requires_grad_(False)"
        )


def _describe(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    groups = [
        {**{key: _plain(value) for key, value in group.items() if key != "params"}, "parameters": len(group["params"])}
        for group in optimizer.param_groups
    ]
    return {"optimizer": f"{type(optimizer).__module__}.{type(optimizer).__qualname__}", "groups": groups}


def _plain(value: Any) -> Any:
    """Return a setting as JSON stores it."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else stable_repr(value)
