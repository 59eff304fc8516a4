"""Edits of an artifact, as an attacker might make them: of every configuration value and every tensor."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 2**63, -(10**400), 1e300, -1e300, 1e-300, 0.5, 1.0),
    *(math.nan, math.inf, -math.inf, "", "x", "../x", "confidence", [], [1], ["x"], [[]], {}, {"x": 1}),
)
Path = tuple[Any, ...]
Edit = tuple[str, Callable[[dict[str, Any], dict[str, Tensor]], None]]
"""Name of an edit, and a function that changes a configuration or tensors in place."""


def every(configuration: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[Edit]:
    """Yield all edits of an artifact, one at a time."""
    yield "unknown", _setting(("unknown",), 1)
    for path, value in _nodes(configuration):
        for name, changed in _replacement_values(value):
            yield f"{_shown(path)} {name}", _setting(path, changed)
        if isinstance(value, dict):
            yield f"{_shown(path)}.unknown", _setting((*path, "unknown"), 1)
        yield f"{_shown(path)} missing", _removing(path)
    for key, tensor in tensors.items():
        for name, changed in _replacement_tensors(tensor):
            yield f"{key} {name}", _putting(key, changed)
        yield f"{key} missing", lambda _, tensors, key=key: tensors.pop(key)
        yield f"{key} twice", lambda _, tensors, key=key: tensors.update({f"{key}x": tensors[key].clone()})


def _nodes(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if path:
        yield path, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, part in inner:
        yield from _nodes(part, (*path, key))


def _replacement_values(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield values that replace a configuration value."""
    for junk in JUNK:
        yield f"= {str(junk)[:9]!r}", junk
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from {"negated": -value, "times 1000": value * 1000, "as text": str(value)}.items()
    if isinstance(value, (list, tuple)) and value:
        shorter, longer = list(value)[:-1], [*value, value[-1]]
        yield from {"shorter": shorter, "longer": longer, "reversed": list(value)[::-1], "nested": [value]}.items()


def _replacement_tensors(tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors that replace a tensor."""
    for dtype in (torch.float64, torch.float32, torch.float16, torch.int64, torch.bool, torch.uint8, torch.complex64):
        yield f"as {dtype}", tensor.to(dtype)
    flat = tensor.flatten()
    yield from {"with a dimension more": tensor[None], "flat": flat, "empty": flat[:0]}.items()
    if tensor.ndim:
        yield from {"shorter": tensor[:-1], "longer": torch.cat([tensor, tensor[-1:]])}.items()
        yield from {"flipped": tensor.flip(0), "narrower": tensor[..., :-1], "turned": tensor.movedim(0, -1)}.items()
    yield from {"zero": torch.zeros_like(tensor), "negated": -tensor, "times 1000": tensor * 1000}.items()
    for value in (math.nan, math.inf, -math.inf, 1e30, -1.0, 0.0):
        for where in (0, -1):
            changed = tensor.clone().flatten()
            if len(changed) and (tensor.is_floating_point() or math.isfinite(value)):
                fitting = value if tensor.is_floating_point() else int(min(value, 200))
                changed[where] = torch.tensor(fitting).to(tensor.dtype)  # inf where the type is too small
                yield f"with {value} at {where}", changed.view(tensor.shape)


def _shown(path: Path) -> str:
    return ".".join(map(str, path))


def _at(configuration: Any, path: Path) -> Any:
    for key in path:
        configuration = configuration[key]
    return configuration


def _setting(path: Path, value: Any) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    def change(configuration: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        _at(configuration, path[:-1])[path[-1]] = copy.deepcopy(value)

    return change


def _removing(path: Path) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    def change(configuration: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        inside = _at(configuration, path[:-1])
        if isinstance(inside, list) or path[-1] in inside:
            del inside[path[-1]]

    return change


def _putting(key: str, value: Tensor) -> Callable[[dict[str, Any], dict[str, Tensor]], None]:
    def change(configuration: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        tensors[key] = value.clone()

    return change
