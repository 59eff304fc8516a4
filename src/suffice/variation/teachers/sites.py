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

from suffice.attach.determinism import evaluation_pass, listed, observe, refuse_draws
from suffice.network import State, batch_size, call, select
from suffice.storage.parts import INSIDE, Parts
from suffice.twin import copy_parameters
from suffice.twin.hooks import hooked, matching
from suffice.utils import arguments
from suffice.utils.draws import Draw
from suffice.utils.nest import tree_map_only
from suffice.variation.teachers.dropping import ATTENTION, REFUSED, Dropout, Dropping
from suffice.variation.teachers.probe import DropoutCall, probe

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
        named: Whether the sites were named, so that `rate` applies to calls of dropout at a rate of 0 too.
    """

    native: Sequence[str]
    inserted: Sequence[str]
    inputs: bool
    rate: float | None
    attention: bool
    draws: bool
    named: bool

    @property
    def names(self) -> list[str]:
        """Names of all sites."""
        return [*self.native, *self.inserted, *([INPUT] if self.inputs else [])]


def find(model: nn.Module, x: State, rate: float | None, at: str | Sequence[str] | None) -> Sites:
    """Find the sites where `MCDropout(rate, at)` drops units of a model.

    Args:
        model: Twin in evaluation mode without gradients. Two examples run through twins of it, once in each mode, but
            normalization is always in evaluation mode. Modules that drop and have code of their own get copies of
            their parameters.
        x: Batch of one example or more.
        rate: Rate in place of the sites' own rates.
        at: Names or patterns of modules, `INPUT`, or None for all that the network itself drops at a rate above 0.

    Raises:
        ValueError: If there is no site, a name matches nothing, a module that drops nothing is named without a rate,
            a rate is outside (0, 1), or a dropout cannot be replaced by masks; if the pass in evaluation mode draws
            random numbers, or a site, or with `at=None` the model in training mode, draws others than those of dropout.
        RuntimeError: If a dropout module that is named does not run.
    """
    sample = select(x, torch.arange(min(2, batch_size(x))))
    found = probe(model, sample)
    patterns = name_patterns(at)
    if at is None:
        native = [name for name, site in found.calls.items() if max(dropout.rate for dropout in site) > 0]
        inserted: list[str] = []
    else:
        modules = matching(model, [pattern for pattern in patterns if pattern != INPUT])
        native = [name for name, module in modules.items() if _drops_units(name, module, found.calls)]
        inserted = [name for name in modules if name not in native]
    for name in native:
        _check_site(name, found.calls.get(name, []), rate, named=at is not None)
    refuse_draws(observe(lambda: evaluation_pass(model, sample)).effective)
    _check_draws(found.effective, None if at is None else native)
    attention = any(dropout.function in ATTENTION for name in native for dropout in found.calls[name])
    sites = Sites(native, inserted, INPUT in patterns, rate, attention, found.draws, at is not None)
    _check_choice(sites)
    native_modules = [model.get_submodule(name) for name in sites.native]
    copy_parameters(model, [module for module in native_modules if type(module) not in _PURE])
    return sites


def check_rate(rate: float, of: str = "") -> float:
    """Return the rate if it is in (0, 1), else raise a ValueError."""
    if not 0 < arguments.number("a dropout rate", rate) < 1:
        passes = "; MCDropout(passes=…) sets the number of passes" if rate >= 2 else ""
        raise ValueError(f"expected a dropout rate in (0, 1){of}, got {rate}{passes}")
    return rate


def name_patterns(at: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the names or patterns in the argument `at` of `MCDropout`; none for None."""
    names = () if at is None else (at,) if isinstance(at, str) else at
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"expected at as names of modules, or patterns such as 'block.*', got {at!r}")
    return tuple(names)


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


def run(
    model: nn.Module,
    x: State,
    sites: Sites,
    rows: int,
    gate: Gate,
    attention: AttentionRate,
    on_in_place: Callable[[Tensor], None] | None = None,
) -> Any:
    """Return the output of a model whose sites multiply by `gate(rate, units)`.

    Args:
        model: Twin in evaluation mode.
        x: Batch of inputs.
        sites: Sites of the model.
        rows: Number N of examples in the batch.
        gate: Function that returns factors; called once for each run of a site.
        attention: Function that returns the rate for the kernel of an attention.
        on_in_place: Function that is called with the input of a dropout in place, which then is not written into; None
            to write into it. The inputs of the model are never written into.

    Raises:
        ValueError: If the units of a site have no row of their own for each row of the batch.
    """

    def factors(name: str, units: Tensor, rate: float, mask_shape: Sequence[int]) -> Tensor:
        if units.ndim < 2 or len(units) % rows:
            raise ValueError(
                f"expected dropout at {name!r} on a tensor with the {rows} rows of the batch first, got shape "
                f"{tuple(units.shape)}; rows that share a unit would share its mask: choose another module"
            )
        return gate(rate, units.new_empty(mask_shape))

    def drop(dropout: Dropout) -> Tensor:
        if not dropout.rate and not (sites.named and sites.rate):
            return dropout.units
        drawn = factors(", ".join(sites.native), dropout.units, sites.rate or dropout.rate, dropout.mask_shape)
        return _multiply(dropout, drawn, on_in_place)

    def attend(_function: Any, rate: float) -> float:
        return attention(sites.rate or rate)

    def insert(name: str, output: Tensor) -> Tensor:
        return output * factors(name, output, check_rate(sites.rate or 0.0), output.shape)

    native, inserted = ({name: model.get_submodule(name) for name in names} for names in (sites.native, sites.inserted))
    with _training_mode(native.values()), hooked(inserted, insert), Dropping(drop, attend):
        x = x if on_in_place else tree_map_only(Tensor, torch.clone, x)
        if sites.inputs:
            x = tree_map_only(Tensor, lambda t: insert(INPUT, t) if t.is_floating_point() else t, x)
        return call(model, x)


def _multiply(dropout: Dropout, factors: Tensor, on_in_place: Callable[[Tensor], None] | None) -> Tensor:
    """Return the units of a dropout times its factors; arguments as for `run`."""
    if dropout.in_place and on_in_place is None:
        return dropout.units.mul_(factors)
    dropped = dropout.units * factors
    if dropout.in_place and on_in_place is not None:
        on_in_place(dropout.units)
    return dropped


def refuse_attention(rate: float) -> float:
    """Raise a ValueError, as the `attention` of a run that needs an explicit mask at every site."""
    raise ValueError(
        f"expected dropout with an explicit mask, got attention dropout of rate {rate}, whose mask is drawn inside "
        "its kernel; exclude it with at=[…], or use MCDropout"
    )


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


def _drops_units(name: str, module: nn.Module, calls: Mapping[str, Sequence[DropoutCall]]) -> bool:
    """Return whether a named module drops units itself.

    Raises:
        RuntimeError: If it is a dropout module that did not run.
    """
    if type(module) in _DROPOUTS and name not in calls:
        raise RuntimeError(f"expected every chosen module to run in a pass, but ['{name}'] did not; leave it out")
    return type(module) in _PURE or any(dropout.rate > 0 for dropout in calls.get(name, []))


def _check_site(name: str, calls: Sequence[DropoutCall], rate: float | None, named: bool) -> None:
    """Raise a ValueError for a rate out of range or a dropout that cannot be replaced by masks."""
    for dropout in calls:
        if dropout.function in REFUSED:
            raise ValueError(
                f"expected dropout that multiplies by a mask, got {dropout.function.__name__} at {name!r}, which "
                f"{REFUSED[dropout.function]}; name other modules in at=[…]"
            )
        if dropout.rate or named:  # a rate of 0 that nobody named stays without effect
            check_rate(dropout.rate if rate is None else rate, f" at {name!r}")


def _check_draws(draws: Sequence[Draw], native: Sequence[str] | None) -> None:
    """Raise a ValueError if a site draws random numbers other than those of dropout.

    Args:
        draws: Operations that draw such numbers in training mode.
        native: Names of the sites that were chosen; None for the whole model.
    """
    unseen = [draw for draw in draws if native is None or draw.module is None or draw.module in native]
    if native == [] or not unseen:
        return
    named = native is None and all(draw.module is not None for draw in unseen)  # others would be refused again
    remedy = "name the dropout to follow, MCDropout(at=[…]), to leave it out on purpose, or " if named else ""
    raise ValueError(
        f"expected dropout as the only randomness in training mode, got random numbers from {listed(unseen)}, whose "
        f"variation would be missing; {remedy}call torch.nn.functional.dropout there, whose masks can be "
        "replaced"
    )


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
