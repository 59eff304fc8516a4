"""Where a network drops units: found by one pass in training mode, and under whose masks a pass then runs.

A module that drops units in training mode is a site: dropout modules, dropout called as a function, also behind
`if self.training`, and attention. To make it active, that module alone is put into training mode, and what it
drops is multiplied by the factors of a gate. Any other module becomes a site by name: its output is multiplied.
Normalisation stays in evaluation mode. All this is done to a twin of the network (`suffice.twin`), not to itself.

Attention draws its masks inside fused kernels, where no gate reaches: the gate's owner says what becomes of it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from suffice.network import State, call
from suffice.storage.parts import INSIDE, Parts
from suffice.twin import Twin, own_parameters
from suffice.twin.hooks import check_open, hooked, matching
from suffice.utils.nest import tree_map_only
from suffice.utils.randomness import draw_from
from suffice.variation.teachers.dropping import ATTENTION, CHANNELS, REFUSED, Dropping

Gate = Callable[[float, Tensor], Tensor]
"""From a rate and a tensor with one entry per unit that is dropped as a whole, (rows, …), to its factors."""
Attention = Callable[[float], float]
"""From the rate of an attention's dropout to the rate that its kernel is given."""

INPUT = "<input>"
"""The name, among names of modules, of the floating-point inputs of the model."""

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_PURE = (*_DROPOUTS, nn.MultiheadAttention)
"""Modules that do nothing in training mode but drop."""


@dataclass(frozen=True)
class Sites:
    """Chosen sites.

    Attributes:
        own: names of modules that drop by themselves.
        inserted: names of modules whose output is dropped.
        inputs: whether the inputs are.
        rate: in place of their own.
        attention: whether attention is among them.
        draws: whether something of the model draws random numbers in training mode besides dropout.
    """

    own: Sequence[str]
    inserted: Sequence[str]
    inputs: bool
    rate: float | None
    attention: bool
    draws: bool

    @property
    def names(self) -> list[str]:
        """Of all sites."""
        return [*self.own, *self.inserted, *([INPUT] if self.inputs else [])]


def find(model: nn.Module, x: State, rate: float | None, at: str | Sequence[str] | None) -> Sites:
    """Where `MCDropout(rate, at)` drops units of a model.

    Args:
        model: a twin in evaluation mode without gradients. A twin of it runs once in training mode, but for its
            normalisation. Modules with code of their own that drop are given copies of their parameters.
        x: an example or two.
        rate: in place of the sites' own rates.
        at: names or patterns of modules, `INPUT`, or None for what the network itself drops at a rate above 0.

    Raises:
        ValueError: if there is none, a name matches nothing, a module that drops nothing is named without a rate,
            a rate is outside (0, 1), or a dropout cannot be given masks.
        RuntimeError: if a dropout module that is named does not run.
    """
    found, draws = _watched(model, x)
    if at is None:
        own = [name for name, seen in found.items() if max(s.rate for s in seen) > 0]
        inserted: list[str] = []
        patterns: list[str] = []
    else:
        patterns = [at] if isinstance(at, str) else list(at)
        chosen = matching(model, [pattern for pattern in patterns if pattern != INPUT])
        own = [name for name, module in chosen.items() if _drops(name, module, found)]
        inserted = [name for name in chosen if name not in own]
    for name in own:
        _check_site(name, found.get(name, []), rate)
    attention = any(seen.function in ATTENTION for name in own for seen in found[name])
    sites = Sites(own, inserted, INPUT in patterns, rate, attention, draws)
    _check_choice(sites)
    own_modules = [model.get_submodule(name) for name in sites.own]
    own_parameters(model, [module for module in own_modules if not isinstance(module, _PURE)])
    return sites


def check_rate(rate: float, of: str = "") -> float:
    """The rate, if it is in (0, 1), else a ValueError."""
    if not 0 < rate < 1:
        raise ValueError(f"expected a dropout rate in (0, 1){of}, got {rate}")
    return rate


def dropped(parts: Parts, model: nn.Module) -> tuple[str | tuple[str, ...] | None, float | None]:
    """Where a model's units are dropped, "at", and at what "rate", as an artifact keeps them of a teacher."""
    at = None if parts.none("at") else parts.text("at") if parts.is_text("at") else parts.texts("at")
    rate = None if parts.none("rate") else parts.number("rate", INSIDE)
    patterns = [at] if isinstance(at, str) else at
    if patterns is not None and not patterns:
        parts.refuse("at", "one name or pattern of modules, or more", at)
    matching(model, [pattern for pattern in patterns or () if pattern != INPUT])
    return at, rate


def run(model: nn.Module, x: State, sites: Sites, rows: int, gate: Gate, attention: Attention) -> Any:
    """The output of a model whose sites multiply by `gate(rate, units)`.

    Args:
        model: a twin in evaluation mode.
        x: a batch.
        sites: of the model.
        rows: N, the rows of the batch.
        gate: gives factors; called once for each run of a site.
        attention: gives the rate for the kernel of an attention.

    Raises:
        ValueError: if the units of a site have no row of their own for each row of the batch.
    """

    def multiply(name: str, units: Tensor, rate: float, channels: bool = False) -> Tensor:
        if units.ndim < 2 or len(units) % rows:
            raise ValueError(
                f"expected dropout at {name!r} on a tensor with the {rows} rows of the batch first, got shape "
                f"{tuple(units.shape)}; rows that share a unit would share its mask: choose another module"
            )
        shape = units.shape[:2] + (1,) * (units.ndim - 2) if channels else units.shape
        return units * gate(rate, units.new_empty(shape))

    def drop(function: Any, units: Tensor, rate: float) -> Tensor:
        return multiply(", ".join(sites.own), units, sites.rate or rate, function in CHANNELS)

    def attend(_function: Any, rate: float) -> float:
        return attention(sites.rate or rate)

    def insert(name: str, output: Tensor) -> Tensor:
        return multiply(name, output, check_rate(sites.rate or 0.0))

    active, inserted = ({name: model.get_submodule(name) for name in part} for part in (sites.own, sites.inserted))
    with _training(active.values()), hooked(inserted, insert), Dropping(drop, attend):
        if sites.inputs:
            x = tree_map_only(Tensor, lambda t: insert(INPUT, t) if t.is_floating_point() else t, x)
        return call(model, x)


def refuse_attention(rate: float) -> float:
    """For a gate that has to reach every unit."""
    raise ValueError(
        f"expected dropout that multiplies by a mask, got dropout of rate {rate} inside attention, which only passes "
        "can follow; choose other modules in at=[…], or use MCDropout"
    )


@dataclass(frozen=True)
class _Seen:
    """A call of dropout in a module: its function and its rate."""

    function: Any
    rate: float


def _watched(model: nn.Module, x: State) -> tuple[dict[str, list[_Seen]], bool]:
    """What drops in training mode: name of the innermost module → its calls of dropout. Nothing is dropped.

    And whether anything drew random numbers all the same.
    """
    twin = Twin(model)
    own_parameters(twin.model, [twin.model])
    names = {module: name for name, module in twin.model.named_modules()}
    check_open({name: module for module, name in names.items()})
    running: list[nn.Module] = []
    found: dict[str, list[_Seen]] = {}

    def note(function: Any, rate: float, result: Any) -> Any:
        found.setdefault(names[running[-1]], []).append(_Seen(function, rate))
        return result

    def leave(*_: Any) -> None:
        running.pop()

    for module in names:
        module.register_forward_pre_hook(lambda module, _: running.append(module), prepend=True)
        module.register_forward_hook(leave, always_call=True)
        module.training = module.training or not isinstance(module, _NormBase)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    watching = Dropping(lambda f, units, rate: note(f, rate, units), lambda f, rate: note(f, rate, 0.0))
    try:
        with twin.running() as watched, draw_from(generator, x, [*model.parameters()]), watching:
            call(watched, x)
    except Exception as error:
        error.add_note("raised while the model ran in training mode, to find what it drops there")
        raise
    return found, not torch.equal(generator.get_state(), before)


@contextmanager
def _training(modules: Any) -> Iterator[None]:
    """Training mode of these modules alone, not of what is in them."""
    modes = [(module, module.training) for module in modules]
    try:
        for module, _ in modes:
            module.training = True
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _drops(name: str, module: nn.Module, found: Mapping[str, Sequence[_Seen]]) -> bool:
    """Whether a module that is named drops units itself."""
    if isinstance(module, _DROPOUTS) and name not in found:
        raise RuntimeError(f"expected every chosen module to run in a pass, got none of ['{name}'] run; leave it out")
    always = isinstance(module, _PURE)
    return always or any(seen.rate > 0 for seen in found.get(name, []))


def _check_site(name: str, calls: Sequence[_Seen], rate: float | None) -> None:
    """Raise a ValueError for a rate out of range or a dropout that cannot be given masks."""
    for seen in calls:
        if seen.function in REFUSED:
            raise ValueError(
                f"expected dropout that multiplies by a mask, got {seen.function.__name__} at {name!r}, which "
                f"{REFUSED[seen.function]}; name other modules in at=[…]"
            )
        check_rate(seen.rate if rate is None else rate, f" at {name!r}")


def _check_choice(sites: Sites) -> None:
    if not sites.names:
        raise ValueError(
            "expected a model that drops units at a rate above 0 in training mode, found nothing that does; name "
            "the modules whose output to drop, at=[…], with a rate"
        )
    if sites.rate is None and (sites.inserted or sites.inputs):
        name = [*sites.inserted, INPUT][0]
        raise ValueError(f"expected a rate for dropout at {name!r}, which has none of its own; pass rate=…")
