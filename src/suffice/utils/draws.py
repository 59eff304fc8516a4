"""Random numbers that a pass draws: the operations that draw them, and the modules in which they run.

A dispatch mode sees every operation of torch that draws random numbers, whoever calls it: dropout, masks of one's own,
noise, also within a scripted function. Generators of Python and of NumPy are compared before and after the pass,
wherever they are kept.

A number that is drawn need not matter: `torch.rand(()) < rate` does nothing at a rate of 0. So a pass can be repeated
with every drawn number replaced by its least or greatest value, which shows any threshold that it is compared with.
"""

import gc
import os
import random
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain, compress, tee
from types import FrameType
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

Extreme = Literal["least", "greatest"]

FOREIGN = (np.random.Generator, np.random.RandomState, random.Random)
"""Types of generators of other libraries, which a model may hold."""

_STATEFUL = (*FOREIGN, np.random.BitGenerator)
_SYSTEM = frozenset(getattr(os, name) for name in ("urandom", "getrandom") if hasattr(os, name))
"""Functions that return random numbers of the operating system."""

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
        names: Names of the modules, from `module_names`.
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
    """Return the names of a model's modules by the `id` of their attributes.

    While `torch.export` traces, a module may run as a proxy, another object with the same attributes.
    """
    return {id(vars(module)): name for name, module in model.named_modules()}


def running_module(names: Mapping[int, str]) -> str | None:
    """Return the name of the innermost module whose call is in progress in this thread, or None.

    The calls are those on the thread's stack, so that no hook is needed, and a module that a forward makes and calls
    counts as part of that forward.

    Args:
        names: Names of the modules that count, from `module_names`.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _CALL and (name := names.get(id(vars(frame.f_locals["self"])))) is not None:
            return name
        frame = frame.f_back
    return None


class ForeignDraws:
    """Draws from generators of Python and NumPy, and from the operating system, within a body.

    The states of all generators that are alive are compared, so it does not matter where one is kept. Numbers of the
    operating system (`os.urandom`, `secrets`) leave no state: calls for them in this thread are observed by a profile
    function, unless another profiler runs.

    Attributes:
        seen: Draws, each once, after the body.
    """

    def __init__(self) -> None:
        self.seen: list[Draw] = []

    def __enter__(self) -> Self:
        self._before = [(source, _state(source)) for source in generators()]
        self._profiles = sys.getprofile() is None
        if self._profiles:
            sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._profiles:
            sys.setprofile(None)
        changed = [source for source, before in self._before if before not in (None, _state(source))]
        used = {id(getattr(source, name, None)) for source in changed for name in ("bit_generator", "_bit_generator")}
        self.seen += [Draw(_name(source), None) for source in changed if id(source) not in used]
        self.seen = list(dict.fromkeys(self.seen))

    def _note(self, _frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and function in _SYSTEM:
            self.seen.append(Draw(f"os.{function.__name__}", None))


class _Scan:
    """Search for generators among all objects, of which only new ones are looked at again.

    Until a collection moves objects to the oldest generation of the garbage collector, all that were made since the
    last search are in the other two. A search of all objects takes tens of milliseconds.
    """

    def __init__(self) -> None:
        self._last: tuple[list[int], list[Any]] = [], []

    def find(self) -> list[Any]:
        """Return the generators that are alive."""
        before, known = self._last
        now = _moves()
        found = _stateful() if now != before else [*known, *_stateful(0), *_stateful(1)]
        if _moves() != now:
            found += _stateful()
        self._last = now, list({id(source): source for source in found}.values())
        return self._last[1]


def _moves() -> list[int]:
    """Return how often collections of each kind that moves objects to the oldest generation have run."""
    collections = [generation["collections"] for generation in gc.get_stats()]
    return collections[1:] if sys.version_info < (3, 14) else collections  # 3.14 has two generations


_SCAN = _Scan()


def generators() -> list[Any]:
    """Return the generators of Python and NumPy that are alive and have a state, the global ones included."""
    return _SCAN.find()


def _stateful(generation: int | None = None) -> list[Any]:
    """Return the generators that have a state among all objects, or among those of a generation of the collector.

    A tuple that another thread is filling must not be held when that thread goes on: CPython resizes it only while
    nothing else refers to it, and raises a SystemError otherwise. So objects are listed, selected and let go of within
    one call of a C function, during which no other thread runs.
    """
    kinds = set(map(id, _kinds(_STATEFUL) - _kinds((random.SystemRandom,))))
    return list(_select(kinds, *tee(map(gc.get_objects, (generation,)), 3)))


def _select(
    kinds: set[int], lists: Iterator[list[Any]], same: Iterator[list[Any]], used: Iterator[list[Any]]
) -> Iterator[Any]:
    """Select lazily the objects whose type has its `id` in `kinds`, and empty their list at the end.

    Three iterators over the same lists are given, one for each step.
    """
    ids = map(id, map(type, chain.from_iterable(same)))
    selected = compress(chain.from_iterable(lists), map(kinds.__contains__, ids))
    return chain(selected, filter(None, map(list.clear, used)))


def _kinds(types: Iterable[type]) -> set[type]:
    """Return types with all their subclasses."""
    return set(types).union(*(_kinds(kind.__subclasses__()) for kind in types))


def _name(source: Any) -> str:
    """Return the name of a generator in messages."""
    if source is getattr(random.getstate, "__self__", None):
        return "Python's random"
    global_ = getattr(np.random.get_state, "__self__", None)
    return "numpy.random" if source is global_ else f"a generator of type {type(source).__name__}"


def _state(generator: Any) -> Any:
    """Return a generator's state, or None for one that has none yet because another thread is making it."""
    try:
        if isinstance(generator, np.random.Generator):
            return _state(generator.bit_generator)
        if isinstance(generator, np.random.BitGenerator):
            return _comparable(generator.state) if _is_made(generator) else None
        if isinstance(generator, np.random.RandomState):
            return _comparable(generator.get_state(legacy=False))
        return _comparable(generator.getstate())
    except Exception:
        return None


def _is_made(generator: np.random.BitGenerator) -> bool:
    """Return whether the state of a bit generator can be read; that of an unfinished one may be a null pointer.

    The state is set right after `seed_seq`. `RandomState` sets that to None, but uses MT19937, which holds its state.
    """
    return isinstance(generator, np.random.MT19937) or generator.seed_seq is not None


def _comparable(state: Any) -> Any:
    """Return a state with bytes in place of arrays of NumPy, which `==` compares as a whole."""
    if isinstance(state, Mapping):
        return {key: _comparable(value) for key, value in state.items()}
    return state.tobytes() if isinstance(state, np.ndarray) else state


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
