"""States of monitors as plain dictionaries, for JSON, so that a server goes on where it was stopped."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_type_hints

import numpy as np
from numpy.typing import NDArray

from suffice_runtime.monitor.capital import Capital, EProcess
from suffice_runtime.monitor.loss import LossAlarm, LossDetector
from suffice_runtime.monitor.mean import MeanBounds
from suffice_runtime.monitor.ranks import DriftAlarm
from suffice_runtime.monitor.shares import ShareAlarm
from suffice_runtime.monitor.steps import StepBack

AnyState = MeanBounds | LossAlarm | LossDetector | StepBack | ShareAlarm | DriftAlarm

_STATES = {kind.__name__: kind for kind in (MeanBounds, LossAlarm, LossDetector, StepBack, ShareAlarm, DriftAlarm)}
_PARTS = {**_STATES, **{kind.__name__: kind for kind in (Capital, EProcess)}}

VERSION = 1
"""Version of the dictionaries, raised when the bets or the fields change."""


def to_dict(state: AnyState) -> dict[str, Any]:
    """Return a state as a dictionary of numbers, texts, lists and dictionaries.

    Example:
        >>> import json
        >>> from suffice_runtime.monitor import LossAlarm, from_dict, to_dict
        >>> alarm = LossAlarm.start(max_loss=0.01, alpha=0.05).update([0, 1, 0])
        >>> restored = from_dict(json.loads(json.dumps(to_dict(alarm))))
        >>> bool(restored.update([1]).log_e == alarm.update([1]).log_e)
        True
    """
    return {"version": VERSION, **_encode(state)}


def from_dict(data: Mapping[str, Any]) -> AnyState:
    """Return the state that `to_dict` saved.

    Raises:
        ValueError: For another version, an unknown kind, fields that are missing or not expected, numbers that are not
            finite, and shapes that do not fit together.
    """
    if data.get("version") != VERSION:
        raise ValueError(f"expected a state of version {VERSION}, got {data.get('version')!r}; start a new one")
    if data.get("kind") not in _STATES:
        raise ValueError(f"expected a state of a kind in {sorted(_STATES)}, got {data.get('kind')!r}")
    state: AnyState = _decode({key: value for key, value in data.items() if key != "version"})
    state.check()
    return state


def _encode(value: Any) -> Any:
    """Return a part of a state as plain values."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, tuple):
        return list(value)
    if type(value).__name__ in _PARTS:
        entries = {field.name: _encode(getattr(value, field.name)) for field in fields(value)}
        return {"kind": type(value).__name__, **entries}
    return value


def _decode(data: Mapping[str, Any]) -> Any:
    """Return the part of a state that a dictionary describes."""
    kind: Any = _PARTS[data["kind"]]
    hints = get_type_hints(kind)
    found = set(data) - {"kind"}
    if found != set(hints):
        raise ValueError(f"expected the fields {sorted(hints)} of {kind.__name__}, got {sorted(found)}")
    return kind(**{name: _read(f"{kind.__name__}.{name}", data[name], hint) for name, hint in hints.items()})


def _read(name: str, value: Any, hint: Any) -> Any:
    """Return one field of a state, of the type of its annotation."""
    if getattr(hint, "__name__", "") in _PARTS:
        if not isinstance(value, Mapping) or value.get("kind") != hint.__name__:
            raise ValueError(f"expected {name} as a dictionary of the kind {hint.__name__!r}, got {value!r:.80}")
        return _decode(value)
    array = _numbers(name, value)
    if hint in (int, float):
        if array.ndim or (hint is int and array.dtype.kind == "f"):
            raise ValueError(f"expected {name} as one {hint.__name__}, got {value!r:.80}")
        return hint(array)
    if hint in (tuple[int, ...], NDArray[np.int64]) and array.dtype.kind == "f" and array.size:
        raise ValueError(f"expected {name} as whole numbers, got {value!r:.80}")
    if hint == tuple[int, ...]:
        return tuple(int(number) for number in array)
    return array


def _numbers(name: str, value: Any) -> Any:
    """Return numbers as an array, int64 where all are whole by type, else float64."""
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.asarray("ragged")
    if array.dtype.kind not in "if" or not np.isfinite(array).all():
        raise ValueError(f"expected {name} as finite numbers, got {value!r:.80}")
    return array.astype(np.int64 if array.dtype.kind == "i" else np.float64)
