"""Read the pickles of CIFAR without an unpickler.

An unpickler calls functions that the file names with arguments from the file, and NumPy's arrays take their address and
strides from such arguments. Here the operations of a pickle are only parsed (`pickletools`), and a stack machine with
the few operations of these files builds only the expected types: a mapping of numbers, bytes, text, flat lists of
these, and arrays of bytes of the expected width. A name in the file is compared with known names, never imported.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from suffice.data.store.dataset import Array

MOST = 1_000_000
"""Maximal number of operations of a file, four times that of the largest official one."""

Mapping = dict[bytes | str, Any]

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_PLAIN = {"BININT", "BININT1", "BININT2", "BINBYTES", "SHORT_BINBYTES", "BINUNICODE", "SHORT_BINUNICODE"}
_LATIN = {"BINSTRING", "SHORT_BINSTRING"}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PROTOCOLS = range(2, 6)
_LONGEST = 200
"""Maximal number of characters of a name."""
_MARK = object()
_SCALARS = (int, bytes, str)
_DTYPE_STATE = (3, "|", None, None, None, -1, -1, 0)


def read(data: bytes, width: int, where: str) -> Mapping:
    """Return the mapping of a pickled file.

    Memory is bounded by a few times the size of the file, and time by `MOST` operations.

    Args:
        data: Contents of the file.
        width: Number of columns of its arrays.
        where: Name of the file, for messages.

    Returns:
        Mapping from bytes or text to integers, bytes, text, lists of these, and arrays (n, width) uint8.

    Raises:
        ValueError: If the file has any other contents, or is damaged.
    """
    machine = _Machine(width, len(data))
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(data)):
            if count == MOST:
                raise _RefusedError(f"it has more than {MOST:,} operations")
            machine.step(operation.name, argument)
        return machine.result()
    except _RefusedError as error:
        raise ValueError(f"expected pickled arrays, got {where}: {error}; refused") from None
    except Exception as error:  # a damaged file can raise anything: an empty stack, a missing memo, …
        raise ValueError(f"expected pickled arrays, got {where}: it is damaged; refused") from error


class _RefusedError(ValueError):
    """Reason why a file is refused."""


@dataclass(frozen=True)
class _Name:
    """Full name of a function or type that the file refers to."""

    full: str


@dataclass
class _Pixels:
    """Array of pixels; empty until the file sets its state."""

    values: Array | None = None


class _U1:
    """Stand-in for NumPy's dtype of one unsigned byte."""


class _Machine:
    """Stack machine that executes the operations of a pickle.

    Args:
        width: Number of columns of arrays.
        room: Maximal total length of encoded strings, in bytes.
    """

    def __init__(self, width: int, room: int) -> None:
        self.width = width
        self.room = room
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.calls: dict[str, Callable[[tuple[Any, ...]], Any]] = {
            "_codecs.encode": self._encode,
            "numpy.dtype": self._dtype,
            "numpy.core.multiarray._reconstruct": self._reconstruct,
            "numpy._core.multiarray._reconstruct": self._reconstruct,
        }

    def step(self, name: str, argument: Any) -> None:
        """Execute one operation."""
        if name in _PLAIN:
            self.stack.append(argument)
        elif name in _LATIN:
            self.stack.append(argument.encode("latin-1"))
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            self.stack.append(tuple(self._pop(_TUPLES[name])))
        else:
            operation = getattr(self, f"_op_{name.lower()}", None)
            if operation is None:
                raise _RefusedError(f"it has the operation {name}")
            operation(argument)

    def result(self) -> Mapping:
        """Return the mapping on the stack after the last operation."""
        (value,) = self.stack
        if not isinstance(value, dict):
            raise _RefusedError(f"it is {_describe(value)}, not a mapping")
        return {key: self._unwrap(item) for key, item in value.items()}

    @staticmethod
    def _unwrap(item: Any) -> Any:
        """Return the values of an array, and any other item unchanged."""
        if not isinstance(item, _Pixels):
            return item
        if item.values is None:
            raise _RefusedError("it has an array without values")
        return item.values

    def _top(self) -> Any:
        """Return the top of the stack, which must not be a mark."""
        if not self.stack or self.stack[-1] is _MARK:
            raise _RefusedError("it removes more items than there are")
        return self.stack[-1]

    def _pop(self, count: int) -> list[Any]:
        """Remove and return the top `count` items, none of which may be a mark."""
        taken = self.stack[len(self.stack) - count :] if count <= len(self.stack) else [_MARK]
        if any(item is _MARK for item in taken):
            raise _RefusedError("it removes more items than there are")
        del self.stack[len(self.stack) - count :]
        return taken

    def _pop_to_mark(self) -> list[Any]:
        """Remove the topmost mark and all items above it, and return these items."""
        count = next(place for place, item in enumerate(reversed(self.stack)) if item is _MARK)
        taken = self._pop(count)
        self.stack.pop()
        return taken

    def _op_proto(self, version: int) -> None:
        if version not in _PROTOCOLS:
            raise _RefusedError(f"it is of protocol {version}")

    def _op_frame(self, _: int) -> None:
        """Ignore the length of the next frame, since the file is in memory."""

    def _op_stop(self, _: None) -> None:
        """Do nothing; `result` is called after the last operation."""

    def _op_mark(self, _: None) -> None:
        self.stack.append(_MARK)

    def _op_tuple(self, _: None) -> None:
        self.stack.append(tuple(self._pop_to_mark()))

    def _op_empty_list(self, _: None) -> None:
        self.stack.append([])

    def _op_empty_dict(self, _: None) -> None:
        self.stack.append({})

    def _op_append(self, _: None) -> None:
        self._extend(self._pop(1))

    def _op_appends(self, _: None) -> None:
        self._extend(self._pop_to_mark())

    def _op_setitem(self, _: None) -> None:
        self._update(self._pop(2))

    def _op_setitems(self, _: None) -> None:
        self._update(self._pop_to_mark())

    def _op_binput(self, index: int) -> None:
        self.memo[index] = self._top()

    _op_long_binput = _op_binput

    def _op_memoize(self, _: None) -> None:
        self.memo[len(self.memo)] = self._top()

    def _op_binget(self, index: int) -> None:
        self.stack.append(self.memo[index])

    _op_long_binget = _op_binget

    def _op_global(self, names: str) -> None:
        self.stack.append(_Name(names.replace(" ", ".")))

    def _op_stack_global(self, _: None) -> None:
        module, name = self._pop(2)
        if type(module) is not str or type(name) is not str or len(module) + len(name) > _LONGEST:
            raise _RefusedError("it refers to something that is not a name")
        self.stack.append(_Name(f"{module}.{name}"))

    def _op_reduce(self, _: None) -> None:
        called, arguments = self._pop(2)
        full = called.full if isinstance(called, _Name) else _describe(called)
        if full not in self.calls:
            raise _RefusedError(f"it calls {full[:80]}")
        if not isinstance(arguments, tuple):
            raise _RefusedError(f"it calls {full} with {_describe(arguments)}")
        self.stack.append(self.calls[full](arguments))

    def _op_build(self, _: None) -> None:
        built, state = self._pop(2)
        if isinstance(built, _U1):
            if not isinstance(state, tuple) or tuple(map(_text, state)) != _DTYPE_STATE:
                raise _RefusedError("it has an array of another type than bytes")
        elif isinstance(built, _Pixels) and built.values is None:
            built.values = self._values(state)
        else:
            raise _RefusedError(f"it sets the state of {_describe(built)}")
        self.stack.append(built)

    def _extend(self, values: list[Any]) -> None:
        target = self._top()
        if type(target) is not list or any(type(value) not in _SCALARS for value in values):
            raise _RefusedError("it has a list of other items than numbers and names")
        target.extend(values)

    def _update(self, values: list[Any]) -> None:
        target = self._top()
        if type(target) is not dict or len(values) % 2:
            raise _RefusedError("it sets the items of an object that is not a mapping")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if type(key) not in (bytes, str) or type(value) not in (*_SCALARS, list, _Pixels):
                raise _RefusedError(f"it has {_describe(value)} under {_describe(key)}")
            if key in target:
                raise _RefusedError(f"it has {key[:40]!r} twice")
            target[key] = value

    def _encode(self, arguments: tuple[Any, ...]) -> bytes:
        """Return bytes from the form in which Python 3 pickles them for Python 2."""
        text, encoding = arguments
        if type(text) is not str or encoding != "latin1":
            raise _RefusedError(f"it encodes {_describe(text)}")
        self.room -= len(text)
        if self.room < 0:
            raise _RefusedError("its strings are longer than the file")
        return text.encode("latin-1")

    def _dtype(self, arguments: tuple[Any, ...]) -> _U1:
        if tuple(map(_text, arguments)) != ("u1", 0, 1):
            raise _RefusedError("it has an array of another type than bytes")
        return _U1()

    def _reconstruct(self, arguments: tuple[Any, ...]) -> _Pixels:
        kind, shape, code = arguments
        if kind != _Name("numpy.ndarray") or shape != (0,) or _text(code) != "b":
            raise _RefusedError("it has an object other than an array")
        return _Pixels()

    def _values(self, state: Any) -> Array:
        """Return an array (n, width) uint8 from NumPy's pickled state: version, shape, type, order and bytes."""
        version, shape, kind, columns_first, values = state
        if version != 1 or not isinstance(kind, _U1) or type(columns_first) is not bool or type(values) is not bytes:
            raise _RefusedError("it has an array of another type than bytes")
        if type(shape) is not tuple or len(shape) != 2 or any(type(n) is not int or n < 0 for n in shape):
            raise _RefusedError("it has an array that is not two-dimensional")
        if shape[1] != self.width or shape[0] * shape[1] != len(values):
            raise _RefusedError(f"it has an array of {shape} in {len(values):,} bytes, not of (n, {self.width})")
        return np.frombuffer(values, dtype=np.uint8).reshape(shape, order="F" if columns_first else "C")


def _text(value: Any) -> Any:
    """Return bytes as text, since Python 2 did not distinguish them."""
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _describe(value: Any) -> str:
    """Return a name for a value in a message."""
    return value.full if isinstance(value, _Name) else f"a {type(value).__name__.strip('_').lower()}"
