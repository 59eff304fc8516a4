"""Save and load what was learned: a folder with `manifest.json` and `tensors.safetensors`, whole or absent.

A crash leaves the old artifact or the new one, never a part (`suffice.files`). The manifest holds digests of the
tensors and of itself, and the hash of the network's weights; the weights stay with the network. There is no pickle
anywhere.

What can be saved has `parts() -> (configuration, tensors)` and `from_parts(configuration, tensors, network)`.
"""

import hashlib
import os
from collections.abc import Callable, Collection
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import suffice
from suffice import files

FORMAT = 1
"""Version of the layout; an artifact of another version is refused."""

_FOLDER = files.Kind("an artifact", "suffice.save", "save it again", FORMAT)

_KINDS = {
    "buckets": ("suffice.variation.buckets", "Buckets"),
    "calibrated": ("suffice.calibration.calibrated", "Calibrated"),
    "density": ("suffice.calibration.density", "DensityScore"),
    "policy": ("suffice.budget.policy", "Policy"),
    "variation-estimator": ("suffice.variation.estimator", "VariationEstimator"),
}


def save(obj: Any, path: str | os.PathLike[str]) -> None:
    """Write what was learned as a folder, replacing one there.

    Args:
        obj: a `Calibrated`, `DensityScore`, `Policy`, `VariationEstimator` or `Buckets`. The weights of its network
            are not saved, their hash is.
        path: the folder.

    Raises:
        TypeError: for anything else.
        ValueError: for a policy whose score is a function; for a network whose weights have changed since.
        FileExistsError: if the path is there and is not such a folder.
    """
    kind = _kind_of(obj)
    if kind == "calibrated":
        obj.check_weights()
    write(path, kind, *obj.parts())


def write(path: str | os.PathLike[str], what: str, configuration: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a folder of some kind: a configuration for JSON and tensors by name.

    Raises:
        FileExistsError: if the path is there and is not such a folder.
    """
    target = Path(path)
    if target.exists() and not (target / files.MANIFEST).is_file():
        raise FileExistsError(f"expected a new folder or an artifact to replace, got {target}; choose another path")
    with files.whole(target) as temporary:
        _write(temporary, what, configuration, tensors)


def load(path: str | os.PathLike[str], network: nn.Module | Callable[[], nn.Module] | None = None) -> Any:
    """Read what `save` wrote.

    Args:
        path: the folder.
        network: the network or plain model that it was made for, with the same weights, or a function that
            builds it; a policy needs none.

    Raises:
        FileNotFoundError: if there is no artifact.
        ValueError: if it is damaged, of another format, or was made for other weights.
    """
    manifest, tensors = _read(Path(path))
    _check_kind(path, manifest["what"], _KINDS)
    module, name = _KINDS[manifest["what"]]
    kind = getattr(import_module(module), name)
    if network is not None and not isinstance(network, nn.Module):
        network = network()
    return kind.from_parts(manifest["configuration"], tensors, network)


def read(path: str | os.PathLike[str], what: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors of a folder of that kind.

    Raises:
        FileNotFoundError: if there is no artifact.
        ValueError: if it is damaged, of another format, or of another kind.
    """
    manifest, tensors = _read(Path(path))
    _check_kind(path, manifest["what"], [what])
    return manifest["configuration"], tensors


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    manifest = files.read_manifest(folder, _FOLDER)
    return manifest, _read_tensors(folder, manifest["tensors_sha256"])


def _check_kind(path: str | os.PathLike[str], what: str, expected: Collection[str]) -> None:
    if what not in expected:
        raise ValueError(f"expected an artifact that holds one of {sorted(expected)}, got a {what} at {path}")


def _kind_of(obj: object) -> str:
    for what, (module, name) in _KINDS.items():
        if (type(obj).__module__, type(obj).__name__) == (module, name):
            return what
    raise TypeError(f"expected one of {[name for _, name in _KINDS.values()]}, got {type(obj).__name__}")


def _write(folder: Path, what: str, configuration: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save as to_bytes

    payload = to_bytes({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    manifest = {
        "format": FORMAT,
        "library": f"suffice {suffice.__version__}",
        "what": what,
        "configuration": configuration,
        "tensors_sha256": hashlib.sha256(payload).hexdigest(),
    }
    files.write_synced(folder / "tensors.safetensors", payload)
    files.write_manifest(folder, manifest)


def _read_tensors(folder: Path, sha256: str) -> dict[str, Tensor]:
    from safetensors.torch import load as from_bytes

    file = folder / "tensors.safetensors"
    payload = file.read_bytes() if file.is_file() else b""
    found = hashlib.sha256(payload).hexdigest()
    if found != sha256:
        raise ValueError(
            f"expected {file} with SHA-256 {sha256[:12]}…, got {len(payload)} bytes with {found[:12]}…; "
            "the file is truncated or was changed"
        )
    return from_bytes(payload)
