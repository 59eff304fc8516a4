"""Pretrained networks of the library, rounded to half precision, then calibrated, with a policy and a model card.

Each network has a folder with three artifacts, `network` (weights in float16, configuration and preprocessing),
`calibrated` and `policy`, and the card `card.md`.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from suffice.models.msdnet import SETTINGS, msdnet
from suffice.network import ExitNetwork
from suffice.storage import artifact, files, manifests, reading
from suffice.storage.parts import INVERTIBLE

if TYPE_CHECKING:
    from suffice.budget.policy import Policy
    from suffice.calibration.calibrated import Calibrated

FOLDER = Path(__file__).parent.parent / "weights"
_WHAT = "pretrained"
_PARTS = ("network", "calibrated", "policy")
_CARD = "card.md"


@dataclass(frozen=True)
class Pretrained:
    """Pretrained network with its calibration, policy, preprocessing and model card.

    Attributes:
        network: Network in float32 and evaluation mode; its weights are representable in half precision.
        calibrated: Calibrated network.
        policy: Policy with a budget of half the cost of the last exit.
        classes: Names of the C classes.
        mean: Mean (3,) of the training pixels / 255, by channel.
        std: Standard deviation (3,) of the training pixels / 255, by channel.
        card: Model card in Markdown: data, recipe, accuracy, calibration and license.
    """

    network: ExitNetwork
    calibrated: "Calibrated"
    policy: "Policy"
    classes: tuple[str, ...]
    mean: Tensor
    std: Tensor
    card: str

    def prepare(self, pixels: Tensor) -> Tensor:
        """Normalize pixels (N, 3, H, W), uint8, to inputs of the network, float32."""
        return (pixels.float() / 255 - self.mean[:, None, None]) / self.std[:, None, None]


def names() -> list[str]:
    """Return the names of all pretrained networks of the library."""
    return sorted(folder.name for folder in FOLDER.iterdir() if folder.is_dir()) if FOLDER.is_dir() else []


def pretrained(name: str) -> Pretrained:
    """Load a pretrained network of the library.

    Raises:
        ValueError: If the name is unknown.
    """
    if name not in names():
        raise ValueError(f"expected one of {names()}, got {name!r}")
    return load(FOLDER / name)


def load(folder: Path) -> Pretrained:
    """Load a pretrained network from a folder that `ship` wrote."""
    return reading.read_consistently(folder, _read, hashed=False)


def _read(folder: Path) -> Pretrained:
    parts = artifact.read(folder / "network", _WHAT)
    setting, classes = parts.choice("setting", tuple(SETTINGS)), parts.texts("classes")
    if len(classes) < 2:
        parts.refuse("classes", "names of two classes or more", classes)
    network = msdnet(setting, num_classes=len(classes))
    templates = {key: _to_half(value) for key, value in network.state_dict().items()}
    weights = {key: parts.tensor_like(key, value) for key, value in templates.items()}
    mean, std = torch.tensor(parts.numbers("mean", 3)), torch.tensor(parts.numbers("std", 3, INVERTIBLE))
    parts.finish()
    network.load_state_dict(weights)
    network.eval()
    calibrated, policy = (artifact.load(folder / part, network=network) for part in ("calibrated", "policy"))
    policy.check_made_for(calibrated)
    return Pretrained(network, calibrated, policy, classes, mean, std, reading.read_file(folder / _CARD).decode())


def _to_half(value: Tensor) -> Tensor:
    return value.half() if value.is_floating_point() else value


def round_to_half(network: ExitNetwork) -> ExitNetwork:
    """Round the weights of a network to half precision, in place, and return the network in float32."""
    return network.half().float()


def ship(folder: Path, made: Pretrained, setting: str) -> None:
    """Write a pretrained network to a folder that `load` reads, completely or not at all.

    Args:
        folder: New folder, or one that this function wrote and that holds no other files, which is replaced.
        made: Pretrained network, calibrated after `round_to_half`.
        setting: Name of the configuration of `models.msdnet`.

    Raises:
        ValueError: If the weights are not representable in half precision.
        FileExistsError: If the folder holds other files.
    """
    weights = made.network.state_dict()
    halves = {key: _to_half(value) for key, value in weights.items()}
    if not all(torch.equal(halves[key].to(value.dtype), value) for key, value in weights.items()):
        raise ValueError("expected weights in half precision, got other values; call round_to_half, then calibrate")
    configuration: dict[str, Any] = {
        "setting": setting,
        "classes": list(made.classes),
        "mean": made.mean.tolist(),
        "std": made.std.tolist(),
    }
    with files.atomic_folder(folder, _owned) as temporary:
        artifact.write(temporary / "network", _WHAT, configuration, halves)
        artifact.save(made.calibrated, temporary / "calibrated")
        artifact.save(made.policy, temporary / "policy")
        (temporary / _CARD).write_bytes(made.card.encode())


def _owned(folder: Path) -> list[str]:
    patterns = [re.escape(_CARD)]
    for part in _PARTS:
        patterns += [f"{part}/", *(re.escape(f"{part}/{path}") for path in artifact.owned_paths(folder / part))]
    return manifests.contents(folder, patterns, "suffice.models.zoo.ship")
