"""Copy of a model that shares its parameters, with a record of the original for later comparison."""

import copy
import functools
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from suffice.twin import callables, containers
from suffice.twin.kinds import ATOMS, is_compiled, reaches, shallow_copy, slot_values
from suffice.twin.tensors import TensorCopies
from suffice.utils.draws import FOREIGN

MARK = "_suffice_twin"
"""Attribute that every copied module has."""

_UNTRACKED = (np.ndarray, *FOREIGN)
"""Types whose objects can be copied, but whose changes cannot be detected."""

_TRAINERS = frozenset(("_fabric", "_trainer"))
"""Attributes by which Lightning links a module to its trainer; no pass reads them."""

_HOOKS = frozenset(("_forward_hooks", "_forward_pre_hooks"))
"""Attributes of every module that hold its forward hooks."""

_HOOK_OPTIONS = frozenset(
    ("_forward_hooks_always_called", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
)
"""Attributes of every module that hold the options of its forward hooks, and change with them."""

_UNUSED = frozenset(
    name for name in vars(nn.Module()) if "state_dict" in name or "backward" in name or "persistent" in name
)
"""Attributes of every module that no forward pass and no twin uses."""

_Location = tuple[str, object]
"""Name of an attribute, and the object that has it."""


class Copier:
    """Copy of a model, made on construction.

    Args:
        model: Model to copy; it is only read.
        copied_parameters: Parameters to copy instead of sharing them.
        track: Whether to fill `objects` and `containers`.

    Attributes:
        copied: Copy of the model.
        objects: Each copied module or other object, the original's `__dict__` at copying, and the copy.
        containers: Each copied container, the original's items at copying, and the copy.
        tensors: Copied tensors.
        compiled: Whether the model has a compiled or scripted part, which is shared.
        trackable: Whether all changes of what was copied can be detected from these records.

    Raises:
        TypeError: If something cannot be copied, or a module can be reached through an object that is shared.
    """

    def __init__(
        self, model: nn.Module, copied_parameters: Iterable[nn.Parameter] = (), *, track: bool = False
    ) -> None:
        self.objects: list[tuple[Any, dict[str, Any], Any]] = []
        self.containers: list[tuple[Any, Any, Any]] = []
        self.tensors = TensorCopies()
        self.trackable, self.compiled, self._track = True, False, track
        self._copies: dict[int, Any] = {}  # by the id of the original
        self._originals: list[Any] = []  # referenced, so that no id is used again
        self._deferred: list[Callable[[], None]] = []
        self._shared: list[tuple[Any, _Location]] = []
        self._location: _Location = "", model
        for parameter in copied_parameters:
            self.remember(parameter, self.tensors.copy_parameter(parameter))
        self.copied: Any = self.copy(model)
        while self._deferred:  # closures and hooks, which may refer to anything that has been copied
            self._deferred.pop()()
        self._check_shared()

    def copy(self, value: Any) -> Any:
        """Return the copy of an object, or the object itself if it is shared with the model."""
        kind = type(value)
        if kind in ATOMS:
            return value
        known = self._copies.get(id(value))
        if known is not None:
            return known
        rule = _RULES.get(kind)
        if rule is not None:
            return self.remember(value, rule(self, value))
        if isinstance(value, nn.Module):
            return self._copy_module(value)
        if isinstance(value, Tensor):
            if is_lazy(value):
                self._refuse_lazy()
            return value if isinstance(value, nn.Parameter) else self.remember(value, self.tensors.copy(value))
        return self.remember(value, self._copy_other(value))

    def remember(self, value: Any, copied: Any) -> Any:
        """Store the copy of an object, and return the copy."""
        self._copies[id(value)] = copied
        self._originals.append(value)
        return copied

    def record_container(self, container: Any, copied: Any) -> None:
        """Add a container and its current items to `containers`."""
        if self._track:
            self.containers.append((container, container.copy(), copied))

    def _copy_module(self, module: nn.Module) -> nn.Module:
        if is_compiled(module):
            self.compiled = True
            return self.remember(module, module)  # type: ignore[no-any-return]
        copied: nn.Module = self.remember(module, object.__new__(type(module)))
        location = self._location
        self._copy_attributes(module, copied)
        self._location = location
        copied.__dict__[MARK] = True
        return copied

    def _copy_object(self, value: Any, copied: Any) -> Any:
        """Replace the attributes of a shallow copy by their copies."""
        self.remember(value, copied)
        if hasattr(copied, "__dict__"):
            self._copy_attributes(value, copied)
        for name, item in slot_values(copied).items():
            self.trackable = False
            object.__setattr__(copied, name, self.copy(item))
        return copied

    def _copy_attributes(self, value: Any, copied: Any) -> None:
        """Fill the `__dict__` of a copy with copies of an object's attributes."""
        attributes, copied_attributes = list(vars(value).items()), vars(copied)
        if self._track:
            self.objects.append((value, dict(attributes), copied))
        for name, attribute in attributes:
            kind = type(attribute)
            if kind in ATOMS or name in _UNUSED or name in _TRAINERS:
                copied_attributes[name] = attribute
            elif name in _HOOK_OPTIONS:
                copied_attributes[name] = attribute.copy()
            elif name in _HOOKS:
                copied_attributes[name] = self._copy_hooks(attribute)
            else:
                self._location = name, value
                copied_attributes[name] = self.copy(attribute)

    def _copy_hooks(self, hooks: dict[Any, Any]) -> dict[Any, Any]:
        copied = type(hooks)()
        self.record_container(hooks, copied)
        if hooks:
            items = dict(hooks)
            self._deferred.append(lambda: copied.update({key: self._copy_hook(hook) for key, hook in items.items()}))
        return copied

    def _copy_hook(self, hook: Any) -> Any:
        """Return a hook that refers to the copy if the model defines it, else the hook itself."""
        known = self._copies.get(id(hook))
        if known is not None:
            return known
        if type(hook) is types.MethodType:
            return callables.copy_method(hook, self._copy_hook)
        if type(hook) is functools.partial:
            return callables.copy_partial(hook, self._copy_hook)
        if type(hook) is not types.FunctionType:
            return hook
        if not callables.is_defined_in_method(hook, callables.referenced_values(hook)):
            return hook
        copied = self.remember(hook, callables.with_empty_closure(hook))
        callables.copy_references(copied, hook, self._copy_hook)
        return copied

    def _copy_function(self, function: types.FunctionType) -> Any:
        """Return the copy of a function among the attributes (see `suffice.twin.callables`)."""
        values = callables.referenced_values(function)
        is_own = callables.is_defined_in_method(function, values)
        if not any(isinstance(v, callables.CALLABLE) or (is_own and type(v) not in ATOMS) for v in values):
            return function
        copied = self.remember(function, callables.with_empty_closure(function))
        copy_reference = functools.partial(self._copy_reference, is_own=is_own)
        self._deferred.append(lambda: callables.copy_references(copied, function, copy_reference))
        return copied if is_own else callables.TwinDispatch(function, copied)

    def _copy_reference(self, value: Any, *, is_own: bool) -> Any:
        """Return the copy of a value in a closure: callables are copied, other values only if they have been."""
        if isinstance(value, callables.CALLABLE):
            return self.copy(value)
        known = self._copies.get(id(value))
        if known is None and is_own:
            self._shared.append((value, ("a function", None)))
        return value if known is None else known

    def _copy_weak_reference(self, reference: Any) -> Any:
        is_proxy = type(reference) is not weakref.ref
        target = reference.__repr__.__self__ if is_proxy else reference()
        copied = self.copy(target)
        if copied is target:
            return reference
        return weakref.proxy(copied) if is_proxy else weakref.ref(copied)

    def _copy_untracked(self, value: Any) -> Any:
        self.trackable = False
        return copy.deepcopy(value)

    def _copy_generator(self, generator: torch.Generator) -> torch.Generator:
        self.trackable = False
        copied = torch.Generator(generator.device)
        copied.set_state(generator.get_state())
        return copied

    def _copy_other(self, value: Any) -> Any:
        """Return the copy of an object without a rule for its type."""
        if isinstance(value, (type, torch.fx.Graph)):  # the code of a GraphModule no longer depends on its graph
            return value
        if isinstance(value, _UNTRACKED):
            return self._copy_untracked(value)
        if isinstance(value, tuple):
            return containers.copy_tuple(self, value)
        if isinstance(value, containers.CONTAINERS):
            return containers.copy_subclass(self, value)
        if isinstance(value, Iterator) and type(value).__module__ in ("builtins", "itertools"):
            return self._copy_untracked(copy.copy(value))
        if (copied := shallow_copy(value)) is not None:
            return self._copy_object(value, copied)
        self._shared.append((value, self._location))
        return value

    def _refuse(self, value: Any) -> Any:
        raise TypeError(
            f"expected a model that can be copied, as passes run on a private copy, got a {type(value).__name__} at "
            f"{_describe(self._location)}; create it where it is used, in forward(), or leave it out"
        )

    def _refuse_lazy(self) -> Any:
        raise ValueError(
            f"expected a model with initialized lazy modules, got an uninitialized parameter at "
            f"{_describe(self._location)}; call the model on one batch first"
        )

    def _check_shared(self) -> None:
        """Raise a TypeError if a copied module can be reached through an object that is shared."""
        modules = [value for value in self._originals if isinstance(value, nn.Module) and not is_compiled(value)]
        for value, location in self._shared:
            if reaches(value, modules):
                raise TypeError(
                    f"expected a model that can be copied, as passes run on a private copy, got modules of it behind a "
                    f"{type(value).__name__} at {_describe(location)}, which cannot be copied; keep them in "
                    "attributes, lists or dicts"
                )


def _describe(location: _Location) -> str:
    name, owner = location
    return name if owner is None else f"{name!r} of {type(owner).__name__}"


_RULES: dict[type, Callable[[Copier, Any], Any]] = {
    **dict.fromkeys((list, deque), containers.copy_sequence),
    **dict.fromkeys((dict, OrderedDict, defaultdict), containers.copy_dict),
    **dict.fromkeys((tuple, frozenset), containers.copy_tuple),
    set: containers.copy_set,
    **dict.fromkeys((weakref.ref, weakref.ProxyType, weakref.CallableProxyType), Copier._copy_weak_reference),
    **dict.fromkeys((types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType), Copier._refuse),
    types.MethodType: lambda copier, value: callables.copy_method(value, copier.copy),
    types.BuiltinMethodType: lambda copier, value: callables.copy_builtin(value, copier.copy),
    functools.partial: lambda copier, value: callables.copy_partial(value, copier.copy),
    types.FunctionType: Copier._copy_function,
    torch.Generator: Copier._copy_generator,
}
"""Copying function by exact type."""
