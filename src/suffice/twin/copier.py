"""A copy of a model: what is copied, what is shared with the model, and what the original was like meanwhile."""

import copy
import functools
import random
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from suffice.twin import callables
from suffice.twin.kinds import ATOMS, is_compiled, reaches, slots, twice
from suffice.twin.tensors import Tensors

MARK = "_suffice_twin"
"""An attribute that every copied module has."""

_SOURCES = (np.ndarray, np.random.Generator, np.random.RandomState, random.Random)
"""Types whose objects can be copied, but whose changes are not seen from outside."""

_OWNERS = frozenset(("_fabric", "_trainer"))
"""Attributes by which Lightning lets a module find what trains it; no pass looks there."""


_HOOKS = frozenset(("_forward_hooks", "_forward_pre_hooks"))
"""Attributes of every module that hold what is called before and after its forward."""

_OF_HOOKS = frozenset(("_forward_hooks_always_called", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs"))
"""Attributes of every module that say how those are called, and change with them."""

_WITHOUT_EFFECT = frozenset(
    name for name in vars(nn.Module()) if "state_dict" in name or "backward" in name or "persistent" in name
)
"""Attributes of every module that no forward and no twin makes use of."""

_Place = tuple[str, object]
"""Name of an attribute, and the object that has it."""


class Copier:
    """A copy of a model.

    Args:
        model: what is copied; only read.
        written: parameters to be copied and not shared.
        noted: whether objects and containers are noted.

    Attributes:
        copied: the copy.
        objects: modules and others that were copied, what the `__dict__` of each held, and the copy.
        containers: those that were copied, what each held, and the copy.
        tensors: those that were copied.
        compiled: whether there is a compiled or scripted part, which was not copied.
        lasting: whether changes of all that was copied can be told from these.

    Raises:
        TypeError: if something cannot be copied, or a module can be reached through something that is shared.
    """

    def __init__(self, model: nn.Module, written: Iterable[nn.Parameter] = (), *, noted: bool = False) -> None:
        self.objects: list[tuple[Any, dict[str, Any], Any]] = []
        self.containers: list[tuple[Any, Any, Any]] = []
        self.tensors = Tensors()
        self.lasting, self.compiled, self._noted = True, False, noted
        self._known: dict[int, Any] = {}
        self._originals: list[Any] = []  # kept, so that no other object is given the id of one
        self._later: list[Callable[[], None]] = []
        self._shared: list[tuple[Any, _Place]] = []
        self._place: _Place = "", model
        for parameter in written:
            self._remember(parameter, self.tensors.parameter(parameter))
        self.copied: Any = self.copy(model)
        while self._later:  # what refers to whatever has been copied by now
            self._later.pop()()
        self._check_shared()

    def copy(self, value: Any) -> Any:
        """The copy of what something holds, or the value itself."""
        kind = type(value)
        if kind in ATOMS:
            return value
        known = self._known.get(id(value))
        if known is not None:
            return known
        rule = _RULES.get(kind)
        if rule is not None:
            return self._remember(value, rule(self, value))
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, Tensor):
            if is_lazy(value):
                self._refuse_lazy()
            return value if isinstance(value, nn.Parameter) else self._remember(value, self.tensors.copy(value))
        return self._remember(value, self._other(value))

    def _remember(self, value: Any, new: Any) -> Any:
        self._known[id(value)] = new
        self._originals.append(value)
        return new

    def _module(self, module: nn.Module) -> nn.Module:
        if is_compiled(module):
            self.compiled = True
            return self._remember(module, module)  # type: ignore[no-any-return]
        new: nn.Module = self._remember(module, object.__new__(type(module)))
        before = self._place
        self._attributes(module, new)
        self._place = before
        new.__dict__[MARK] = True
        return new

    def _object(self, value: Any, new: Any) -> Any:
        """Any other object and a second one that holds the same: let that hold the copies."""
        self._remember(value, new)
        if hasattr(new, "__dict__"):
            self._attributes(value, new)
        for name, held in slots(new).items():
            self.lasting = False
            object.__setattr__(new, name, self.copy(held))
        return new

    def _attributes(self, value: Any, new: Any) -> None:
        """Fill a new object with what an object has."""
        attributes, held = list(vars(value).items()), vars(new)
        if self._noted:
            self.objects.append((value, dict(attributes), new))
        for name, attribute in attributes:
            kind = type(attribute)
            if kind in ATOMS or name in _WITHOUT_EFFECT or name in _OWNERS:
                held[name] = attribute
            elif name in _OF_HOOKS:
                held[name] = attribute.copy()
            elif name in _HOOKS:
                held[name] = self._hooks(attribute)
            else:
                self._place = name, value
                held[name] = self.copy(attribute)

    def _note(self, container: Any, new: Any) -> None:
        if self._noted:
            self.containers.append((container, container.copy(), new))

    def _hooks(self, hooks: dict[Any, Any]) -> dict[Any, Any]:
        new = type(hooks)()
        self._note(hooks, new)
        if hooks:
            held = dict(hooks)
            self._later.append(lambda: new.update({key: self._hook(hook) for key, hook in held.items()}))
        return new

    def _sequence(self, values: Any) -> Any:
        self._note(values, new := deque[Any](maxlen=values.maxlen) if isinstance(values, deque) else list[Any]())
        self._remember(values, new).extend(map(self.copy, list(values)))
        return new

    def _set(self, values: set[Any]) -> set[Any]:
        self._note(values, new := set[Any]())
        self._remember(values, new)
        new.update(map(self.copy, list(values)))
        return new

    def _dict(self, values: dict[Any, Any]) -> dict[Any, Any]:
        self._note(values, new := type(values)())
        self._remember(values, new)
        if isinstance(values, defaultdict) and isinstance(new, defaultdict):
            new.default_factory = self.copy(values.default_factory)
        for key, value in list(values.items()):
            new[self.copy(key)] = self.copy(value)
        return new

    def _subclass(self, values: Any) -> Any:
        """A copy of a container of another class, made by that class's own way to copy."""
        self.lasting = False
        new = self._remember(values, copy.copy(values))
        if isinstance(new, dict):
            for key in list(new):
                dict.__setitem__(new, key, self.copy(new[key]))
        elif isinstance(new, (list, deque)):
            for i, value in enumerate(list(new)):
                new[i] = self.copy(value)
        return new

    def _tuple(self, values: Any) -> Any:
        new = [self.copy(value) for value in values]
        if all(a is b for a, b in zip(values, new, strict=True)):
            return values
        return type(values)._make(new) if hasattr(values, "_make") else type(values)(new)

    def _function(self, function: types.FunctionType) -> Any:
        """A function among the attributes, which may refer to the model (`suffice.twin.callables`)."""
        held = callables.held(function)
        own = callables.is_own(function, held)
        if not any(isinstance(value, callables.CALLABLE) or (own and type(value) not in ATOMS) for value in held):
            return function
        new = self._remember(function, callables.hollow(function))
        self._later.append(lambda: callables.fill(new, function, functools.partial(self._captured, own=own)))
        return new if own else callables.Elsewhere(function, new)

    def _captured(self, value: Any, *, own: bool) -> Any:
        if isinstance(value, callables.CALLABLE):
            return self.copy(value)
        known = self._known.get(id(value))
        if known is None and own:
            self._shared.append((value, ("a function", None)))
        return value if known is None else known

    def _hook(self, hook: Any) -> Any:
        """A hook of the model's own that refers to the copy, or any other as it is."""
        known = self._known.get(id(hook))
        if known is not None:
            return known
        if type(hook) is types.MethodType:
            return callables.method(hook, self._hook)
        if type(hook) is functools.partial:
            return callables.partial(hook, self._hook)
        if type(hook) is not types.FunctionType or not callables.is_own(hook, callables.held(hook)):
            return hook
        new = self._remember(hook, callables.hollow(hook))
        callables.fill(new, hook, self._hook)
        return new

    def _reference(self, reference: Any) -> Any:
        proxy = type(reference) is not weakref.ref
        target = reference.__repr__.__self__ if proxy else reference()
        new = self.copy(target)
        if new is target:
            return reference
        return weakref.proxy(new) if proxy else weakref.ref(new)

    def _source(self, source: Any) -> Any:
        self.lasting = False
        return copy.deepcopy(source)

    def _generator(self, generator: torch.Generator) -> torch.Generator:
        self.lasting = False
        new = torch.Generator(generator.device)
        new.set_state(generator.get_state())
        return new

    def _refuse(self, value: Any) -> Any:
        raise TypeError(
            f"expected a model that can be copied, as every pass that looks at it needs one to itself, got a "
            f"{type(value).__name__} at {_told(self._place)}; make it where it is used, in forward, or leave it out"
        )

    def _refuse_lazy(self) -> Any:
        raise ValueError(
            f"expected a model whose lazy modules have taken their sizes from a pass, got none yet for "
            f"{_told(self._place)}; call the model on one batch first"
        )

    def _other(self, value: Any) -> Any:
        if isinstance(value, (type, torch.fx.Graph)):  # a graph is what the code of a module was made from
            return value
        if isinstance(value, _SOURCES):
            return self._source(value)
        if isinstance(value, tuple):
            return self._tuple(value)
        if isinstance(value, tuple(_CONTAINERS)):
            return self._subclass(value)
        if isinstance(value, Iterator) and type(value).__module__ in ("builtins", "itertools"):
            return self._source(copy.copy(value))
        if (new := twice(value)) is not None:
            return self._object(value, new)
        self._shared.append((value, self._place))
        return value

    def _check_shared(self) -> None:
        """Raise a TypeError if a module that was copied can be reached through something that was not."""
        originals = [value for value in self._originals if isinstance(value, nn.Module) and not is_compiled(value)]
        for value, place in self._shared:
            if reaches(value, originals):
                raise TypeError(
                    f"expected a model that can be copied, as every pass that looks at it needs one to itself, got "
                    f"modules of it behind a {type(value).__name__} at {_told(place)}, which cannot; keep them in "
                    "attributes, lists or dicts"
                )


def _told(place: _Place) -> str:
    name, owner = place
    return name if owner is None else f"{name!r} of {type(owner).__name__}"


_CONTAINERS: dict[type, Callable[[Copier, Any], Any]] = {
    list: Copier._sequence,
    deque: Copier._sequence,
    set: Copier._set,
    dict: Copier._dict,
    OrderedDict: Copier._dict,
    defaultdict: Copier._dict,
}
_RULES: dict[type, Callable[[Copier, Any], Any]] = {
    **_CONTAINERS,
    **dict.fromkeys((tuple, frozenset), Copier._tuple),
    **dict.fromkeys((weakref.ref, weakref.ProxyType, weakref.CallableProxyType), Copier._reference),
    **dict.fromkeys((types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType), Copier._refuse),
    types.MethodType: lambda copier, value: callables.method(value, copier.copy),
    types.BuiltinMethodType: lambda copier, value: callables.builtin(value, copier.copy),
    functools.partial: lambda copier, value: callables.partial(value, copier.copy),
    types.FunctionType: Copier._function,
    torch.Generator: Copier._generator,
}
