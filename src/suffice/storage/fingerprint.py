"""Identity of a network: the hash of its weights, and its structure beyond them.

What was fitted for a network is tied to it by both. The hash covers names, shapes, types and bytes of all weights and
buffers, and the values of any extra state. The same weights behind another activation, stride or dropout rate are
another network, so the structure covers the rest: of each module of `torch.nn`, its class and constructor arguments
(its `__constants__`), and of every module, the torch functions among its attributes. Structures are compared on the
attributes that both have, so that another version of torch, or a compiled part, makes no difference. A user's own
`forward` is not compared, nor are hooks, which run as in any pass.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from suffice.storage.parts import Parts
from suffice.utils.text import brief

Structure = Mapping[str, Mapping[str, Any]]
"""Attributes by module name, with values as in JSON; the class of a module is its attribute "class"."""

_COMPILED = "_orig_mod."
"""Prefix that `torch.compile` adds to the names of a module's weights."""

_NO_EFFECT = frozenset(("training", "inplace", "momentum"))
"""Attributes that change nothing in evaluation mode."""

_VALUES = (bool, int, float, str, type(None))


def fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 of a model's weights and buffers: their names, shapes, types and bytes.

    It does not depend on the device, nor on whether the model is compiled.
    """
    return _digest(model.state_dict())


def fingerprints(model: nn.Module) -> dict[str, str]:
    """Return the SHA-256 of the shape, type and bytes of each weight and buffer, by its name."""
    return {name: _digest({"": value}) for name, value in model.state_dict().items()}


def fingerprint_of_rows(model: nn.Module, parameters: Iterable[nn.Parameter], rows: int) -> str:
    """Return the `fingerprint` of a model as if some of its parameters had only their first `rows` rows."""
    state, cut = dict(model.state_dict()), {id(parameter) for parameter in parameters}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in cut:
            state[name] = state[name][:rows]
    return _digest(state)


def check_fingerprint(model: nn.Module, expected: str) -> None:
    """Raise a ValueError unless `fingerprint(model)` equals the expected hash."""
    actual = fingerprint(model)
    if actual != expected:
        raise ValueError(
            f"expected a network whose weights have the hash {expected[:12]}…, got {actual[:12]}…; load the weights "
            "used at fitting, or calibrate or fit again for these"
        )


def structure(model: nn.Module) -> Structure:
    """Return the structure of a model, as described at the top of this module."""
    attributes_by_module = {}
    for name, module in _uncompiled_modules(model).items():
        is_torch = type(module).__module__.startswith("torch.nn.")
        compared = {"class", *getattr(module, "__constants__", ())} if is_torch else set[str]()
        attributes = {
            key: value
            for key, value in _attributes(module).items()
            if key in compared or callable(getattr(module, key, None))
        }
        if attributes:
            attributes_by_module[name] = attributes
    return attributes_by_module


def read_structure(parts: Parts) -> Structure:
    """Return the structure in an artifact, empty if the artifact predates structures.

    Raises:
        ValueError: If it is not a mapping of mappings.
    """
    if "structure" not in parts:
        return {}
    value = parts.take("structure")
    if not isinstance(value, Mapping) or not all(isinstance(attributes, Mapping) for attributes in value.values()):
        parts.refuse("structure", "a mapping of mappings", value)
    return value


def check_structure(model: nn.Module, expected: Structure) -> None:
    """Raise a ValueError that names the first module that differs from the expected structure."""
    modules = _uncompiled_modules(model)
    for name, expected_attributes in expected.items():
        attributes = _attributes(modules[name]) if name in modules else {}
        for key, value in expected_attributes.items():
            if attributes.get(key, value) != value:
                label = "" if key == "class" else f"{brief(key)}="
                raise ValueError(
                    f"expected {label}{brief(value)} in module {brief(name)!r}, as at fitting, got "
                    f"{label}{brief(attributes[key])}; the weights are the same, but the network computes something "
                    "else: build it as it was at fitting"
                )


def _digest(state: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    values = {name.replace(_COMPILED, ""): value for name, value in state.items()}
    for name in sorted(values):
        for chunk in _chunks(name, values[name]):
            digest.update(chunk)
    return digest.hexdigest()


def _chunks(name: str, value: Any) -> Iterator[bytes]:
    """Yield the bytes to hash of a value in a state dict: of a tensor or, as `get_extra_state` may return, any other.

    Of objects that are neither values nor containers, only the class is hashed.
    """
    if isinstance(value, Tensor):
        yield f"{name} {tuple(value.shape)} {value.dtype};".encode()
        for dense in _dense_tensors(value.detach()):
            yield dense.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            yield from _chunks(f"{name}[{key!r}]", value[key])
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _chunks(f"{name}[{index}]", item)
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        yield f"{name} {value.shape} {value.dtype};".encode()
        yield value.tobytes()
    elif isinstance(value, io.BytesIO):
        yield from _chunks(name, value.getvalue())
    else:
        known = isinstance(value, (*_VALUES, bytes, complex, torch.dtype, torch.device, torch.Size))
        yield f"{name} {type(value).__qualname__} {value if known else ''};".encode()


def _dense_tensors(tensor: Tensor) -> list[Tensor]:
    """Return the dense tensors that a tensor of any layout consists of."""
    if tensor.is_quantized:
        per_channel = tensor.qscheme() in (torch.per_channel_affine, torch.per_channel_affine_float_qparams)
        scale = (
            [tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()]
            if per_channel
            else [torch.tensor([tensor.q_scale(), tensor.q_zero_point()], dtype=torch.float64)]
        )
        return [tensor.int_repr(), *scale]
    if tensor.layout == torch.strided:
        return [tensor.resolve_conj().resolve_neg()]
    if tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce()
        return [tensor.indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]


def _uncompiled_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules by the names that they have in the uncompiled model."""
    named = model.named_modules(remove_duplicate=False)
    # A compiled wrapper and its original get the same name; the original comes last and stays.
    return {f"{name}.".replace(_COMPILED, "")[:-1]: module for name, module in named}


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Return the class and the public attributes of a module whose values JSON can hold."""
    name = module.original_name if isinstance(module, torch.jit.ScriptModule) else type(module).__name__
    attributes: dict[str, Any] = {"class": name}
    for key, value in vars(module).items():
        if key.startswith("_") or key in _NO_EFFECT:
            continue
        if isinstance(value, _VALUES):
            attributes[key] = value if not isinstance(value, float) or abs(value) < float("inf") else str(value)
        elif isinstance(value, (tuple, list)) and all(isinstance(item, _VALUES) for item in value):
            attributes[key] = [*value]
        elif callable(value) and str(getattr(value, "__module__", "")).startswith("torch"):
            attributes[key] = getattr(value, "__name__", type(value).__name__)
    return attributes
