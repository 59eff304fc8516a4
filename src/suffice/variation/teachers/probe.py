"""Observation of a model in training mode: which modules drop units there, and what else is random.

All modules but normalization are in training mode, on a private twin, and nothing is dropped. So the random numbers
that are still drawn belong to something else: masks of one's own (stochastic depth), noise, other kinds of dropout.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from suffice.attach.determinism import Pass, observe
from suffice.network import State, call
from suffice.twin import Twin, copy_parameters
from suffice.twin.hooks import check_hookable
from suffice.utils.draws import Draw, module_names, running_module
from suffice.utils.nest import tree_map_only
from suffice.variation.teachers.dropping import Dropout, Dropping


@dataclass(frozen=True)
class DropoutCall:
    """Call of a dropout function in a module: the function and its rate."""

    function: Any
    rate: float


@dataclass(frozen=True)
class Probe:
    """Randomness of a model in training mode.

    Attributes:
        calls: Calls of dropout by the name of the innermost module that makes them.
        draws: Whether the pass draws random numbers besides those of dropout.
        effective: Operations that draw such numbers, where these change the output.
    """

    calls: dict[str, list[DropoutCall]]
    draws: bool
    effective: list[Draw]


def probe(model: nn.Module, x: State) -> Probe:
    """Run a model in training mode without dropping anything.

    Args:
        model: Twin in evaluation mode without gradients; it does not change.
        x: Batch of one or two examples.

    Raises:
        ValueError: If part of the model is compiled or scripted.
    """
    calls: dict[str, list[DropoutCall]] = {}

    def prepare() -> Pass:
        twin = Twin(model)
        check_hookable(dict(twin.model.named_modules()))
        copy_parameters(twin.model, [twin.model])
        for module in twin.model.modules():
            module.training = module.training or not isinstance(module, _NormBase)
        names = module_names(twin.model)
        calls.clear()

        def record(function: Any, rate: float) -> float:
            calls.setdefault(running_module(names) or "", []).append(DropoutCall(function, rate))
            return 0.0

        def keep(dropout: Dropout) -> Tensor:
            record(dropout.function, dropout.rate)
            return dropout.units

        def run() -> Any:
            with Dropping(keep, record):
                return call(twin.model, tree_map_only(Tensor, torch.clone, x))

        return Pass(twin, run, [x, *model.parameters()])

    try:
        observation = observe(prepare)
    except Exception as error:
        error.add_note("raised while the model ran in training mode, to find what it drops there")
        raise
    return Probe(calls, bool(observation.seen), observation.effective)
