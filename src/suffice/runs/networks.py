"""Networks by name, and their weights in files.

A name is that of a pretrained network of the library, or `package.module:function`, a function without arguments that
returns the network. Weights are read without pickle's code.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor, nn

from suffice.models import zoo
from suffice.storage import artifact, reading
from suffice.utils.text import brief

_WHAT = "network"
_SAFETENSORS, _PICKLED = ".safetensors", (".pt", ".pth", ".bin")


def imported(name: str) -> Any:
    """Return what the function of an import path returns, such as `package.module:function`, without arguments.

    Modules of the current folder are found, also by imports within the function.

    Raises:
        ValueError: If it is not such a path, there is no such function, or the user's code raises an error or exits.
    """
    if name.count(":") != 1 or not all(name.split(":")):
        raise ValueError(f"expected an import path such as package.module:function, got {brief(name)!r}")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)  # for the whole process, as of a script; behind the library's own modules
    try:
        function = resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"expected an import path such as package.module:function, got {brief(name)!r}: {error}; run in the folder "
            "of the module, or correct its name or that of the function"
        ) from error
    except (Exception, SystemExit) as error:  # of the user's code
        raise ValueError(_user_error(name, "be imported", error)) from error
    try:
        return function()
    except (Exception, SystemExit) as error:  # of the user's code
        raise ValueError(_user_error(name, "return a result when called without arguments", error)) from error


def _user_error(name: str, what: str, error: BaseException) -> str:
    got = f"{type(error).__name__}: {brief(str(error).strip().partition(chr(10))[0], 160)}"
    return f"expected {brief(name)!r} to {what}, got {got}; --debug shows where it is raised"


def build(name: str) -> nn.Module:
    """Build a network by its name, in evaluation mode.

    Raises:
        ValueError: If the name is that of no pretrained network, and no import path, or its code raises an error.
        TypeError: If the function returns anything but a module.
    """
    if name in zoo.names():
        return zoo.pretrained(name).network
    if ":" not in name:
        raise ValueError(
            f"expected a network by an import path such as package.module:function, or one of {zoo.names()}, got "
            f"{brief(name)!r}"
        )
    network = imported(name)
    if not isinstance(network, nn.Module):
        raise TypeError(f"expected {name} to return a torch.nn.Module, got {type(network).__name__}")
    return network.eval()


def read_weights(network: nn.Module, file: Path) -> None:
    """Read the weights of a network from a file of safetensors, or a state dict that torch saved.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file has another ending, is damaged, or holds other weights than those of the network.
    """
    if file.suffix == _SAFETENSORS:
        weights = _safetensors(file)
    elif file.suffix in _PICKLED:
        weights = _pickled(file)
    else:
        raise ValueError(
            f"expected weights in a file ending in {_SAFETENSORS} or {', '.join(_PICKLED)}, got {brief(file.name)!r}"
        )
    _assign(network, weights, str(file))


def save(network: nn.Module, name: str, folder: Path) -> None:
    """Save the weights of a network, and the name by which it is built, as an artifact.

    Raises:
        FileExistsError: If something is there that is not an artifact, or has other files in it.
        OSError: If the folder cannot be written.
    """
    artifact.write(folder, _WHAT, {"name": name}, dict(network.state_dict()))


def load(folder: Path) -> nn.Module:
    """Build the network that `save` wrote, with its weights.

    Raises:
        FileNotFoundError: If there is no artifact.
        ValueError: If it is damaged, or the function of its name builds another network.
    """
    parts = artifact.read(folder, _WHAT)
    network = build(parts.text("name"))
    _assign(
        network, {name: parts.tensor_like(name, value) for name, value in network.state_dict().items()}, str(folder)
    )
    parts.finish()
    return network


def _safetensors(file: Path) -> Mapping[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    try:
        return from_bytes(reading.read_file(file))
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"expected safetensors in {file}, got {error}") from error


def _pickled(file: Path) -> Mapping[str, Tensor]:
    with reading.open_file(file) as stream:
        try:
            weights = torch.load(stream, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged files raise many kinds
            raise ValueError(
                f"expected a state dict in {file}, got {brief(str(error).partition(chr(10))[0], 160)}; save it by "
                "torch.save(network.state_dict(), path)"
            ) from error
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        inner = isinstance(weights, Mapping) and "state_dict" in weights
        remedy = 'torch.save(checkpoint["state_dict"], path)' if inner else "torch.save(network.state_dict(), path)"
        raise ValueError(f"expected a state dict in {file}, got {type(weights).__name__}; save it by {remedy}")
    return {str(name): value for name, value in weights.items()}


def _assign(network: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Copy weights to a network, all of which it has to have.

    Raises:
        ValueError: If names or shapes differ.
    """
    for name, own in network.state_dict().items():
        given = weights.get(name)
        if isinstance(own, Tensor) and given is not None and given.dtype != own.dtype:
            raise ValueError(
                f"expected {name!r} in {own.dtype} in {source}, got {given.dtype}, which would change its values; "
                "build the network in that type, or save the weights that were calibrated"
            )
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).partition("\n")[2].split())
        prefixed = bool(weights) and all(name.startswith("module.") for name in weights)
        remedy = (
            "remove the prefix 'module.' of DataParallel from the names"
            if prefixed
            else "name the function that builds the network as it was trained, with its exits"
        )
        raise ValueError(
            f"expected the weights of this network in {source}, got others: {brief(reason, 200)}; {remedy}"
        ) from error
