"""Artifacts: fitted objects saved as a folder with `manifest.json` and `tensors.safetensors`.

After a crash the old or the new artifact is there, complete, and nothing but an artifact is ever replaced
(`suffice.storage.files`, `suffice.storage.manifests`). The manifest holds digests of the tensors and of itself, and the
hash of the network's weights; the weights themselves stay with the network. No pickle is used.

A class that can be saved has `parts() -> (configuration, tensors)` and `from_parts(parts, network)`. It derives from
`Serializable`, so that a loaded object computes with exactly the tensors that were saved.
"""

import hashlib
import os
import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from suffice._version import __version__
from suffice.storage import files, manifests, paths, reading
from suffice.storage.parts import Parts
from suffice.utils.text import printable

FORMAT = 1
"""Version of the layout. Artifacts of another version are refused."""

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
    """Save a fitted object as a folder, replacing an artifact that is there.

    Args:
        obj: A `Calibrated`, `DensityScore`, `Policy`, `VariationEstimator` or `Buckets`. The weights of its network
            are not saved, only their hash is.
        path: Folder to write. If it is a link, the link stays and its destination is replaced.

    Raises:
        TypeError: If `obj` is of another class.
        ValueError: If the score of a policy is a function, or the weights of the network have changed since fitting.
        FileExistsError: If something is there that is not an artifact, an artifact with a changed manifest, or one
            with other files in it; nothing is changed then. An artifact with damaged tensors is replaced.
        OSError: If the folder cannot be written, or the disk is full.

    Example:
        >>> import tempfile, torch, suffice
        >>> _ = torch.manual_seed(0)
        >>> network, x, y = suffice.models.convnet(num_classes=3), torch.rand(12, 1, 8, 8), torch.arange(12) % 3
        >>> calibrated = suffice.calibrate(network, [(x, y)], [(x, y)], tuning="evidence")
        >>> policy = suffice.allocate(calibrated, [x], budget=1.0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     suffice.save(policy, f"{folder}/policy")
        ...     print(suffice.load(f"{folder}/policy").score)
        confidence
    """
    kind = _kind_of(obj)
    if kind != "policy":
        obj.check_weights()
    write(path, kind, *obj.parts())


def write(path: str | os.PathLike[str], what: str, configuration: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write an artifact of any kind.

    Args:
        path: Folder to write.
        what: Kind of artifact, which `read` compares.
        configuration: JSON-serializable configuration.
        tensors: Tensors by name.

    Raises:
        FileExistsError: If something is there that is not an artifact, or has other files in it.
        OSError: If the folder cannot be written, or the disk is full.
    """
    with (
        files.lock_target(path) as target,
        target.atomic_folder(owned_paths) as temporary,
        target.explain_errors(),
    ):
        _write(temporary, what, configuration, tensors)


def check(path: str | os.PathLike[str]) -> None:
    """Raise a FileExistsError if `write` would refuse to write to the path."""
    target = paths.resolve(path)
    if os.path.lexists(target):
        owned_paths(target)


owned_paths = partial(manifests.owned_paths, kind=_FOLDER)
"""List everything in an artifact; raises a FileExistsError for another folder, or one with other files in it."""


def load(path: str | os.PathLike[str], network: nn.Module | Callable[[], nn.Module] | None = None) -> Any:
    """Load an object that `save` has written.

    Args:
        path: Folder of the artifact.
        network: Network or plain model that the object was fitted for, with the same weights, or a function that
            builds it. Not needed for a policy.

    Returns:
        The object, which computes the same bytes as the saved one.

    Raises:
        FileNotFoundError: If there is no artifact.
        ValueError: If it is damaged, of another format, was fitted for other weights, or holds impossible values.

    Example:
        >>> import tempfile, torch, suffice
        >>> _ = torch.manual_seed(0)
        >>> network, x, y = suffice.models.convnet(num_classes=3), torch.rand(12, 1, 8, 8), torch.arange(12) % 3
        >>> calibrated = suffice.calibrate(network, [(x, y)], [(x, y)], tuning="evidence")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     suffice.save(calibrated, f"{folder}/calibrated")
        ...     loaded = suffice.load(f"{folder}/calibrated", network=network)
        >>> torch.equal(loaded(x)[-1].probs, calibrated(x)[-1].probs)
        True
    """
    what, parts = reading.read_consistently(Path(path), partial(_read, kinds=_KINDS))
    module, name = _KINDS[what]
    kind = getattr(import_module(module), name)
    if network is not None and not isinstance(network, nn.Module):
        network = network()
    loaded = kind.from_parts(parts, network)
    parts.finish()
    return loaded


def read(path: str | os.PathLike[str], what: str) -> Parts:
    """Return the content of an artifact of one kind, to be taken part by part and finished.

    Raises:
        FileNotFoundError: If there is no artifact.
        ValueError: If it is damaged, of another format, or of another kind.
    """
    parts: Parts = reading.read_consistently(Path(path), partial(_read, kinds=[what]))[1]
    return parts


def _read(folder: Path, kinds: Collection[str]) -> tuple[str, Parts]:
    """Return the kind of an artifact, which must be one of `kinds`, and its content."""
    manifest = Parts(manifests.read_manifest(folder, _FOLDER), {}, printable(folder / manifests.MANIFEST))
    what = manifest.choice("what", sorted(kinds))
    tensors = _read_tensors(folder, manifest.text("tensors_sha256"))
    return what, Parts(manifest.take("configuration"), tensors, printable(folder))


def _kind_of(obj: object) -> str:
    """Return the kind of artifact that an object is saved as."""
    for what, (module, name) in _KINDS.items():
        if (type(obj).__module__, type(obj).__name__) == (module, name):
            return what
    raise TypeError(
        f"expected one of {[name for _, name in _KINDS.values()]}, got {type(obj).__name__}; save the weights of a "
        "network with torch or safetensors"
    )


def _write(folder: Path, what: str, configuration: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save as to_bytes

    payload = to_bytes(_separate(tensors))
    manifest = {
        "format": FORMAT,
        "library": f"suffice {__version__}",
        "what": what,
        "configuration": configuration,
        "tensors_sha256": hashlib.sha256(payload).hexdigest(),
    }
    (folder / _TENSORS).write_bytes(payload)
    manifests.write_manifest(folder, manifest)


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return dense copies on the CPU of tensors that share memory with others, as the format requires.

    Raises:
        TypeError: If one is not a dense tensor.
    """
    separate, memory = dict[str, Tensor](), set[int]()
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_quantized:
            kind = f"a {tensor.layout} one" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(f"expected dense tensors to save, got {kind} as {printable(name)}; save it by yourself")
        dense = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        start = dense.untyped_storage().data_ptr()
        separate[name] = dense.clone() if start in memory else dense
        memory.add(start)
    return separate


def _read_tensors(folder: Path, sha256: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    file = folder / _TENSORS
    try:
        with reading.open_file(file) as stream:
            payload = stream.read()
    except FileNotFoundError as error:
        raise ValueError(f"expected {printable(file)}, found none; the artifact is damaged") from error
    actual = hashlib.sha256(payload).hexdigest()
    if actual != sha256:
        raise ValueError(
            f"expected {printable(file)} with SHA-256 {printable(sha256[:12])}…, got {len(payload)} bytes "
            f"with {actual[:12]}…; the file is truncated or was changed"
        )
    try:
        return from_bytes(payload)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"expected tensors in the safetensors format, got a damaged {printable(file)}: {error}"
        ) from error
