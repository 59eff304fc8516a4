"""Sites: the places where a network drops units, found by one pass in training mode and then run under given masks.

A module that drops units in training mode is a site: dropout modules, modules that call dropout as a function (also
behind `if self.training`), and attention. To activate a site, that module alone is put into training mode, and the
units that it drops are multiplied by the factors of a gate. Any other module becomes a site by name: its output is
multiplied. Normalization stays in evaluation mode. All this is done to a twin of the network (`suffice.twin`).

Attention draws its masks inside fused kernels, which no gate can reach, so the caller of `run` decides on its rate.
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
from suffice.twin import Twin, copy_parameters
from suffice.twin.hooks import check_hookable, hooked, matching
from suffice.utils.nest import tree_map_only
from suffice.utils.randomness import draw_from
from suffice.variation.teachers.dropping import ATTENTION, CHANNELS, REFUSED, Dropping

Gate = Callable[[float, Tensor], Tensor]
"""Function from a rate and a tensor with one entry per unit dropped as a whole, (rows, …), to the units' factors."""
AttentionRate = Callable[[float], float]
"""Function from the dropout rate of an attention to the rate that its kernel is called with."""

INPUT = "<input>"
"""Name, among names of modules, of the floating-point inputs of the model."""

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_PURE = (*_DROPOUTS, nn.MultiheadAttention)
"""Modules on which training mode has no effect but dropout."""


@dataclass(frozen=True)
class Sites:
    """Sites of one model that were chosen for dropout.

    Attributes:
        native: Names of modules that drop units themselves.
        inserted: Names of modules whose output is dropped.
        inputs: Whether the inputs of the model are dropped.
        rate: Rate in place of the sites' own rates; None to keep those.
        attention: Whether attention is among the native sites.
        draws: Whether the model draws random numbers in training mode besides those of dropout.
    """

    native: Sequence[str]
    inserted: Sequence[str]
    inputs: bool
    rate: float | None
    attention: bool
    draws: bool

    @property
    def names(self) -> list[str]:
        """Names of all sites."""
        return [*self.native, *self.inserted, *([INPUT] if self.inputs else [])]


def find(model: nn.Module, x: State, rate: float | None, at: str | Sequence[str] | None) -> Sites:
    """Find the sites where `MCDropout(rate, at)` drops units of a model.

    Args:
        model: Twin in evaluation mode without gradients. A twin of it runs once in training mode, but for its
            normalization. Modules that drop and have code of their own get copies of their parameters.
        x: Batch of one or two examples.
        rate: Rate in place of the sites' own rates.
        at: Names or patterns of modules, `INPUT`, or None for all that the network itself drops at a rate above 0.

    Raises:
        ValueError: If there is no site, a name matches nothing, a module that drops nothing is named without a rate,
            a rate is outside (0, 1), or a dropout cannot be replaced by masks.
        RuntimeError: If a dropout module that is named does not run.
    """
    calls, draws = _dropout_calls(model, x)
    patterns = name_patterns(at)
    if at is None:
        native = [name for name, site in calls.items() if max(dropout.rate for dropout in site) > 0]
        inserted: list[str] = []
    else:
        modules = matching(model, [pattern for pattern in patterns if pattern != INPUT])
        native = [name for name, module in modules.items() if _drops_units(name, module, calls)]
        inserted = [name for name in modules if name not in native]
    for name in native:
        _check_site(name, calls.get(name, []), rate)
    attention = any(dropout.function in ATTENTION for name in native for dropout in calls[name])
    sites = Sites(native, inserted, INPUT in patterns, rate, attention, draws)
    _check_choice(sites)
    native_modules = [model.get_submodule(name) for name in sites.native]
    copy_parameters(model, [module for module in native_modules if not isinstance(module, _PURE)])
    return sites


def check_rate(rate: float, of: str = "") -> float:
    """Return the rate if it is in (0, 1), else raise a ValueError."""
    if not 0 < rate < 1:
        raise ValueError(f"expected a dropout rate in (0, 1){of}, got {rate}")
    return rate


def name_patterns(at: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the names or patterns in the argument `at` of `MCDropout`; none for None."""
    return () if at is None else (at,) if isinstance(at, str) else tuple(at)


def read_names_and_rate(parts: Parts, model: nn.Module) -> tuple[str | tuple[str, ...] | None, float | None]:
    """Read the fields "at" and "rate" of an artifact.

    Args:
        parts: Fields of a teacher or of the delta rule.
        model: Model that must have the named modules.

    Returns:
        Names or patterns, and the rate, as arguments of `MCDropout`.
    """
    at = None if parts.none("at") else parts.text("at") if parts.is_text("at") else parts.texts("at")
    rate = None if parts.none("rate") else parts.number("rate", INSIDE)
    patterns = name_patterns(at)
    if at is not None and not patterns:
        parts.refuse("at", "one name or pattern of modules, or more", at)
    matching(model, [pattern for pattern in patterns if pattern != INPUT])
    return at, rate


def run(model: nn.Module, x: State, sites: Sites, rows: int, gate: Gate, attention: AttentionRate) -> Any:
    """Return the output of a model whose sites multiply by `gate(rate, units)`.

    Args:
        model: Twin in evaluation mode.
        x: Batch of inputs.
        sites: Sites of the model.
        rows: Number N of examples in the batch.
        gate: Function that returns factors; called once for each run of a site.
        attention: Function that returns the rate for the kernel of an attention.

    Raises:
        ValueError: If the units of a site have no row of their own for each row of the batch.
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
        return multiply(", ".join(sites.native), units, sites.rate or rate, function in CHANNELS)

    def attend(_function: Any, rate: float) -> float:
        return attention(sites.rate or rate)

    def insert(name: str, output: Tensor) -> Tensor:
        return multiply(name, output, check_rate(sites.rate or 0.0))

    native, inserted = ({name: model.get_submodule(name) for name in names} for names in (sites.native, sites.inserted))
    with _training_mode(native.values()), hooked(inserted, insert), Dropping(drop, attend):
        if sites.inputs:
            x = tree_map_only(Tensor, lambda t: insert(INPUT, t) if t.is_floating_point() else t, x)
        return call(model, x)


def refuse_attention(rate: float) -> float:
    """Raise a ValueError, as the `attention` of a run that needs an explicit mask at every site."""
    raise ValueError(
        f"expected dropout with an explicit mask, got attention dropout of rate {rate}, whose mask is drawn inside "
        "its kernel; exclude it with at=[…], or use MCDropout"
    )


@dataclass(frozen=True)
class _DropoutCall:
    """Call of a dropout function in a module: the function and its rate."""

    function: Any
    rate: float


def _dropout_calls(model: nn.Module, x: State) -> tuple[dict[str, list[_DropoutCall]], bool]:
    """Run a model in training mode without dropping anything.

    Returns:
        The calls of dropout by the name of the innermost module that makes them, and whether the pass drew random
        numbers nevertheless.
    """
    twin = Twin(model)
    copy_parameters(twin.model, [twin.model])
    names = {module: name for name, module in twin.model.named_modules()}
    check_hookable({name: module for module, name in names.items()})
    running: list[nn.Module] = []
    calls: dict[str, list[_DropoutCall]] = {}

    def record(function: Any, rate: float, result: Any) -> Any:
        calls.setdefault(names[running[-1]], []).append(_DropoutCall(function, rate))
        return result

    def leave(*_: Any) -> None:
        running.pop()

    for module in names:
        module.register_forward_pre_hook(lambda module, _: running.append(module), prepend=True)
        module.register_forward_hook(leave, always_call=True)
        module.training = module.training or not isinstance(module, _NormBase)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    recorder = Dropping(lambda f, units, rate: record(f, rate, units), lambda f, rate: record(f, rate, 0.0))
    try:
        with twin.running() as watched, draw_from(generator, x, [*model.parameters()]), recorder:
            call(watched, x)
    except Exception as error:
        error.add_note("raised while the model ran in training mode, to find what it drops there")
        raise
    return calls, not torch.equal(generator.get_state(), before)


@contextmanager
def _training_mode(modules: Any) -> Iterator[None]:
    """Put modules into training mode within the body, but not their submodules."""
    modes = [(module, module.training) for module in modules]
    try:
        for module, _ in modes:
            module.training = True
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _drops_units(name: str, module: nn.Module, calls: Mapping[str, Sequence[_DropoutCall]]) -> bool:
    """Return whether a named module drops units itself.

    Raises:
        RuntimeError: If it is a dropout module that did not run.
    """
    if isinstance(module, _DROPOUTS) and name not in calls:
        raise RuntimeError(f"expected every chosen module to run in a pass, but ['{name}'] did not; leave it out")
    return isinstance(module, _PURE) or any(dropout.rate > 0 for dropout in calls.get(name, []))


def _check_site(name: str, calls: Sequence[_DropoutCall], rate: float | None) -> None:
    """Raise a ValueError for a rate out of range or a dropout that cannot be replaced by masks."""
    for dropout in calls:
        if dropout.function in REFUSED:
            raise ValueError(
                f"expected dropout that multiplies by a mask, got {dropout.function.__name__} at {name!r}, which "
                f"{REFUSED[dropout.function]}; name other modules in at=[…]"
            )
        check_rate(dropout.rate if rate is None else rate, f" at {name!r}")


def _check_choice(sites: Sites) -> None:
    """Raise a ValueError if there is no site, or if one without a rate of its own gets none."""
    if not sites.names:
        raise ValueError(
            "expected a model that drops units at a rate above 0 in training mode, found nothing that does; to "
            "drop the output of modules, name them with a rate: at=[…], rate=…"
        )
    if sites.rate is None and (sites.inserted or sites.inputs):
        name = [*sites.inserted, INPUT][0]
        raise ValueError(f"expected a rate for dropout at {name!r}, which has none of its own; pass rate=…")
