"""Random numbers that a pass draws: the operations that draw them, and the modules in which they run.

A dispatch mode sees every operation of torch that draws random numbers, whoever calls it: dropout, masks of one's own,
noise, also within a scripted function. Generators of Python and of NumPy are compared before and after the pass.

A number that is drawn need not matter: `torch.rand(()) < rate` does nothing at a rate of 0. So a pass can be repeated
with every drawn number replaced by its least or greatest value, which shows any threshold that it is compared with.
"""

import random
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import FrameType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

Extreme = Literal["least", "greatest"]

FOREIGN = (np.random.Generator, np.random.RandomState, random.Random)
"""Types of generators of other libraries, which a model may hold."""

_CALL = nn.Module._call_impl.__code__
_FAR = 8.0
"""Number of standard deviations that replaces a normal number."""

_DRAWS_NOTHING = frozenset(("_fused_sdp_choice", "_nested_tensor_softmax_with_shape", "_cudnn_init_dropout_state"))
"""Operations that torch marks as random, but that compute nothing from random numbers."""


@dataclass(frozen=True)
class Draw:
    """Operation that draws random numbers.

    Attributes:
        operation: Name of the operation, such as "bernoulli_", or of the generator of another library.
        module: Name of the innermost module in which it runs; "" is the model itself, None no module of it.
    """

    operation: str
    module: str | None

    def __str__(self) -> str:
        if self.module is None:
            return self.operation
        return f"{self.operation} in {f'module {self.module!r}' if self.module else 'the forward of the model itself'}"


class Draws(TorchDispatchMode):
    """Dispatch mode that records the operations that draw random numbers.

    Args:
        names: Names of the modules by their `id`.
        extreme: Value that replaces every drawn number; None to keep the numbers.

    Attributes:
        seen: Operations that have drawn, in their order.
        replaceable: Whether the numbers of all of them have a known range, so that `extreme` can replace them.
    """

    def __init__(self, names: Mapping[int, str], extreme: Extreme | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[Draw] = []
        self.replaceable = True
        self._names, self._extreme = names, extreme

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags or not _is_active(func, args, kwargs):
            return func(*args, **kwargs)
        name = func._schema.name.partition("::")[2]
        self.seen.append(Draw(name, running_module(self._names)))
        result = func(*args, **kwargs)
        bounds = _bounds(name, _bind(func, args, kwargs), result)
        self.replaceable = self.replaceable and bounds is not None
        if self._extreme is not None and bounds is not None:
            result.copy_(torch.as_tensor(bounds[self._extreme == "greatest"], dtype=result.dtype, device=result.device))
        return result


def module_names(model: nn.Module) -> dict[int, str]:
    """Return the names of a model's modules by their `id`."""
    return {id(module): name for name, module in model.named_modules()}


def running_module(names: Mapping[int, str]) -> str | None:
    """Return the name of the innermost module whose call is in progress in this thread, or None.

    The calls are those on the thread's stack, so that no hook is needed, and a module that a forward makes and calls
    counts as part of that forward.

    Args:
        names: Names of the modules that count, by their `id`.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _CALL and (name := names.get(id(frame.f_locals["self"]))) is not None:
            return name
        frame = frame.f_back
    return None


class ForeignDraws:
    """States of the generators of Python and NumPy, to be compared with later ones.

    Args:
        generators: Generators besides the global ones.
    """

    def __init__(self, generators: Iterable[Any] = ()) -> None:
        self._sources: list[tuple[str, Callable[[], Any]]] = [
            ("Python's random", random.getstate),
            ("numpy.random", lambda: np.random.get_state(legacy=False)),  # noqa: NPY002 (a model may draw from it)
            *((f"a generator of type {type(g).__name__}", lambda g=g: _state(g)) for g in generators),
        ]
        self._before = [_text(state()) for _, state in self._sources]

    def seen(self) -> list[Draw]:
        """Return the generators that have been drawn from since."""
        return [
            Draw(name, None)
            for (name, state), before in zip(self._sources, self._before, strict=True)
            if _text(state()) != before
        ]


def global_generators(model: nn.Module) -> list[Any]:
    """Return the generators of Python and NumPy among the globals of the files that define a model's modules."""
    files = {type(module).__module__ for module in model.modules()}
    globals_ = [vars(sys.modules[name]) for name in files if name in sys.modules and not name.startswith("torch.")]
    return [value for values in globals_ for value in list(values.values()) if isinstance(value, FOREIGN)]


def reseed(generators: Sequence[Any], seed: int) -> None:
    """Seed generators of Python and NumPy in place."""
    for generator in generators:
        if isinstance(generator, np.random.Generator):
            bits = generator.bit_generator
            bits.state = type(bits)(seed).state
        else:
            generator.seed(seed)


def _state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.get_state(legacy=False) if isinstance(generator, np.random.RandomState) else generator.getstate()


def _text(state: Any) -> str:
    """Return the text of a generator's state, arrays of NumPy in full."""
    if isinstance(state, Mapping):
        return str({key: _text(value) for key, value in state.items()})
    return str(state.tobytes()) if isinstance(state, np.ndarray) else str(state)


def _is_active(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether a call of an operation that torch marks as random draws random numbers."""
    name = func._schema.name.partition("::")[2]
    if name in _DRAWS_NOTHING or name.endswith("_backward"):
        return False
    bound = _bind(func, args, kwargs)
    training = bound.get("train", bound.get("training"))
    rate = bound.get("dropout_p", bound.get("dropout"))
    return training is not False and (rate is None or rate > 0)


def _bind(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by name, defaults included."""
    return {**_defaults(func), **dict(zip(_argument_names(func), args, strict=False)), **kwargs}


@cache
def _argument_names(func: Any) -> tuple[str, ...]:
    return tuple(argument.name for argument in func._schema.arguments)


@cache
def _defaults(func: Any) -> dict[str, Any]:
    return {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}


def _bounds(name: str, bound: Mapping[str, Any], drawn: Any) -> tuple[Any, Any] | None:
    """Return the least and the greatest number that an operation can draw, or None if they are not known here.

    Args:
        name: Name of the operation.
        bound: Its arguments by name.
        drawn: Its result.
    """
    name = name.removesuffix("_")
    if name in ("rand", "rand_like", "uniform"):
        low, high = bound.get("from", 0.0), bound.get("to", 1.0)
        return low, high - max(abs(low), abs(high)) * torch.finfo(drawn.dtype).eps
    if name == "bernoulli":
        chance = torch.as_tensor(bound.get("p", bound["self"]))
        return chance >= 1, chance > 0
    if name in ("randint", "randint_like") and not isinstance(bound["high"], Tensor):
        return bound.get("low", 0), bound["high"] - 1
    if name in ("randn", "randn_like"):
        return -_FAR, _FAR
    if name == "normal" and not isinstance(bound["mean"], Tensor) and not isinstance(bound["std"], Tensor):
        return bound["mean"] - _FAR * bound["std"], bound["mean"] + _FAR * bound["std"]
    return None
