"""Save and load what was learned: a folder with `manifest.json` and `tensors.safetensors`, whole or absent.

A folder is written under a temporary name beside its place, synced to disk and renamed, so that a crash
leaves the old artifact or the new one, never a part. The manifest holds digests of the tensors and of itself,
and the hash of the network's weights; the weights stay with the network. There is no pickle anywhere.

What can be saved has `parts() -> (configuration, tensors)` and `from_parts(configuration, tensors, network)`.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import suffice

FORMAT = 1
"""Version of the layout; an artifact of another version is refused."""

_KINDS = {
    "calibrated": ("suffice.calibration.calibrated", "Calibrated"),
    "density": ("suffice.calibration.density", "DensityScore"),
    "policy": ("suffice.budget.policy", "Policy"),
    "variation-estimator": ("suffice.variation.estimator", "VariationEstimator"),
}


def save(obj: Any, path: str | os.PathLike[str]) -> None:
    """Write a `Calibrated`, `DensityScore`, `Policy` or `VariationEstimator` as a folder, replacing one there.

    Args:
        obj: what to save. The weights of its network are not saved, their hash is.
        path: the folder.

    Raises:
        TypeError: for anything else.
        ValueError: for a policy whose score is a function.
        FileExistsError: if the path is there and is not such a folder.
    """
    write(path, _kind_of(obj), *obj.parts())


def write(path: str | os.PathLike[str], what: str, configuration: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a folder of some kind: a configuration for JSON and tensors by name.

    Raises:
        FileExistsError: if the path is there and is not such a folder.
    """
    target = Path(path)
    if target.exists() and not (target / "manifest.json").is_file():
        raise FileExistsError(f"expected a new folder or an artifact to replace, got {target}; choose another path")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        _write(temporary, what, configuration, tensors)
        _replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
    manifest = _read_manifest(folder)
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
    manifest["manifest_sha256"] = _digest(manifest)
    _write_synced(folder / "tensors.safetensors", payload)
    _write_synced(folder / "manifest.json", json.dumps(manifest, indent=2).encode())
    _sync(folder)


def _replace(new: Path, target: Path) -> None:
    """Put folder `new` in the place of `target`; the old one goes last, and comes back if that fails."""
    if not target.exists():
        new.rename(target)
        _sync(target.parent)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        target.rename(aside / "old")
        try:
            new.rename(target)
        except OSError:
            (aside / "old").rename(target)
            raise
        _sync(target.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _read_manifest(folder: Path) -> dict[str, Any]:
    file = folder / "manifest.json"
    if not file.is_file():
        raise FileNotFoundError(f"expected an artifact with manifest.json, found none at {folder}")
    try:
        manifest: dict[str, Any] = json.loads(file.read_bytes())
        stated = manifest.pop("manifest_sha256")
        intact = stated == _digest(manifest)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"expected a manifest written by suffice.save, got a damaged {file}: {error}") from error
    if not intact:
        raise ValueError(f"expected {file} as it was written, got one that was changed; save it again")
    if manifest["format"] != FORMAT:
        raise ValueError(
            f"expected format {FORMAT}, got format {manifest['format']} written by {manifest['library']}; "
            "read it with that version"
        )
    return manifest


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


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _write_synced(file: Path, payload: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(payload)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
