"""Save and load what was learned: a folder with `manifest.json` and `tensors.safetensors`, whole or absent.

A crash leaves the old artifact or the new one, never a part, and nothing but an artifact is replaced
(`suffice.storage.files`, `suffice.storage.manifests`). The manifest holds digests of the tensors and of itself, and the
hash of the network's weights; the weights stay with the network. There is no pickle anywhere.

What can be saved has `parts() -> (configuration, tensors)` and `from_parts(parts, network)`, derives from
`stored.Stored`, and so computes with just what its parts are.
"""

import hashlib
import os
import re
from collections.abc import Callable, Collection
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from suffice._version import __version__
from suffice.storage import files, manifests, places, reading
from suffice.storage.parts import Parts
from suffice.storage.places import shown

FORMAT = 1
"""Version of the layout; an artifact of another version is refused."""

_TENSORS = "tensors.safetensors"
_FOLDER = manifests.Kind(
    "an artifact",
    "suffice.save",
    "move it away and save it again",
    FORMAT,
    entries={"what": str, "configuration": dict, "tensors_sha256": str},
    files=lambda manifest: [re.escape(_TENSORS)],
)

_KINDS = {
    "buckets": ("suffice.variation.buckets", "Buckets"),
    "calibrated": ("suffice.calibration.calibrated", "Calibrated"),
    "density": ("suffice.calibration.density", "DensityScore"),
    "policy": ("suffice.budget.policy", "Policy"),
    "variation-estimator": ("suffice.variation.estimator", "VariationEstimator"),
}


def save(obj: Any, path: str | os.PathLike[str]) -> None:
    """Write what was learned as a folder, replacing an artifact that is there.

    Args:
        obj: a `Calibrated`, `DensityScore`, `Policy`, `VariationEstimator` or `Buckets`. The weights of its network
            are not saved, their hash is.
        path: the folder. A link is written through, and stays.

    Raises:
        TypeError: for anything else.
        ValueError: for a policy whose score is a function; for a network whose weights have changed since.
        FileExistsError: if something is there that is no artifact, or one with files of yours in it; nothing is then
            changed. An artifact whose tensors are damaged is replaced, one whose manifest is changed is not.
        OSError: if it cannot be written, or the disk is full.
    """
    kind = _kind_of(obj)
    if kind != "policy":
        obj.check_weights()
    write(path, kind, *obj.parts())


def write(path: str | os.PathLike[str], what: str, configuration: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write a folder of some kind: a configuration for JSON and tensors by name.

    Raises:
        FileExistsError: if something is there that is no such folder, or not all of it is.
        OSError: if it cannot be written, or the disk is full.
    """
    with files.alone(path) as place, place.folder(owned) as temporary, place.said():
        _write(temporary, what, configuration, tensors)


def check(path: str | os.PathLike[str]) -> None:
    """Raise a FileExistsError if something is there that `write` would not replace."""
    target = places.resolved(path)
    if os.path.lexists(target):
        owned(target)


owned = partial(manifests.owned, kind=_FOLDER)
"""Paths of all that is in an artifact; a FileExistsError for another folder, or one with other files in it."""


def load(path: str | os.PathLike[str], network: nn.Module | Callable[[], nn.Module] | None = None) -> Any:
    """Read what `save` wrote.

    Args:
        path: the folder.
        network: the network or plain model that it was made for, with the same weights, or a function that
            builds it; a policy needs none.

    Raises:
        FileNotFoundError: if there is no artifact.
        ValueError: if it is damaged, of another format, was made for other weights, or holds what cannot be.
    """
    what, parts = reading.steadily(Path(path), partial(_read, kinds=_KINDS))
    module, name = _KINDS[what]
    kind = getattr(import_module(module), name)
    if network is not None and not isinstance(network, nn.Module):
        network = network()
    loaded = kind.from_parts(parts, network)
    parts.finish()
    return loaded


def read(path: str | os.PathLike[str], what: str) -> Parts:
    """What a folder of that kind holds, to be taken part by part and finished.

    Raises:
        FileNotFoundError: if there is no artifact.
        ValueError: if it is damaged, of another format, or of another kind.
    """
    parts: Parts = reading.steadily(Path(path), partial(_read, kinds=[what]))[1]
    return parts


def _read(folder: Path, kinds: Collection[str]) -> tuple[str, Parts]:
    """Which of these kinds a folder is, and what it holds."""
    manifest = Parts(manifests.read_manifest(folder, _FOLDER), {}, shown(folder / manifests.MANIFEST))
    what = manifest.choice("what", sorted(kinds))
    tensors = _read_tensors(folder, manifest.text("tensors_sha256"))
    return what, Parts(manifest.take("configuration"), tensors, shown(folder))


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
        "library": f"suffice {__version__}",
        "what": what,
        "configuration": configuration,
        "tensors_sha256": hashlib.sha256(payload).hexdigest(),
    }
    (folder / _TENSORS).write_bytes(payload)
    manifests.write_manifest(folder, manifest)


def _read_tensors(folder: Path, sha256: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    file = folder / _TENSORS
    try:
        with reading.open_file(file) as stream:
            payload = stream.read()
    except FileNotFoundError as error:
        raise ValueError(f"expected {shown(file)}, found none; the artifact is damaged") from error
    found = hashlib.sha256(payload).hexdigest()
    if found != sha256:
        raise ValueError(
            f"expected {shown(file)} with SHA-256 {shown(sha256[:12])}…, got {len(payload)} bytes with {found[:12]}…; "
            "the file is truncated or was changed"
        )
    try:
        return from_bytes(payload)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"expected tensors as safetensors writes them, got a damaged {shown(file)}: {error}"
        ) from error
