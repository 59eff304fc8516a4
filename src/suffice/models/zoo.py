"""Networks that come with the library: trained, calibrated after rounding to half precision, with a policy and a card.

A folder for each: `network` (weights in float16, how to build it, how to prepare images), `calibrated` and `policy`,
artifacts as any other, and `card.md`.
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
    """A trained network and all that belongs to it.

    Attributes:
        network: float32, in evaluation mode; its weights are numbers of half precision.
        calibrated: the network, calibrated.
        policy: for half of the cost of the last exit.
        classes: names of the C classes.
        mean: (3,) of the training pixels / 255, by channel.
        std: (3,) their standard deviation.
        card: Markdown: data, recipe, accuracy and calibration, licence.
    """

    network: ExitNetwork
    calibrated: "Calibrated"
    policy: "Policy"
    classes: tuple[str, ...]
    mean: Tensor
    std: Tensor
    card: str

    def prepare(self, pixels: Tensor) -> Tensor:
        """Images as the network takes them, float32, from pixels (N, 3, H, W) uint8."""
        return (pixels.float() / 255 - self.mean[:, None, None]) / self.std[:, None, None]


def names() -> list[str]:
    """Of all networks that come with the library."""
    return sorted(folder.name for folder in FOLDER.iterdir() if folder.is_dir()) if FOLDER.is_dir() else []


def pretrained(name: str) -> Pretrained:
    """A network that comes with the library, ready for use.

    Raises:
        ValueError: for a name that there is not.
    """
    if name not in names():
        raise ValueError(f"expected one of {names()}, got {name!r}")
    return load(FOLDER / name)


def load(folder: Path) -> Pretrained:
    """A folder that `ship` wrote."""
    return reading.steadily(folder, _read, hashed=False)


def _read(folder: Path) -> Pretrained:
    parts = artifact.read(folder / "network", _WHAT)
    setting, classes = parts.choice("setting", tuple(SETTINGS)), parts.texts("classes")
    if len(classes) < 2:
        parts.refuse("classes", "names of two classes or more", classes)
    network = msdnet(setting, num_classes=len(classes))
    held = {key: _halved(value) for key, value in network.state_dict().items()}
    weights = {key: parts.tensor_like(key, value) for key, value in held.items()}
    mean, std = torch.tensor(parts.numbers("mean", 3)), torch.tensor(parts.numbers("std", 3, INVERTIBLE))
    parts.finish()
    network.load_state_dict(weights)
    network.eval()
    calibrated, policy = (artifact.load(folder / part, network=network) for part in ("calibrated", "policy"))
    policy.check_made_for(calibrated)
    return Pretrained(network, calibrated, policy, classes, mean, std, reading.read_file(folder / _CARD).decode())


def _halved(value: Tensor) -> Tensor:
    return value.half() if value.is_floating_point() else value


def rounded(network: ExitNetwork) -> ExitNetwork:
    """The network with its weights rounded to half precision, in place."""
    return network.half().float()


def ship(folder: Path, made: Pretrained, setting: str) -> None:
    """Write a folder that `load` reads, whole or not at all.

    Args:
        folder: replaced if it is one that was shipped, and holds nothing else.
        made: its network `rounded` before it was calibrated.
        setting: of `models.msdnet`.

    Raises:
        ValueError: if the weights are not numbers of half precision.
        FileExistsError: if something else is there.
    """
    weights = made.network.state_dict()
    halves = {key: _halved(value) for key, value in weights.items()}
    if not all(torch.equal(halves[key].to(value.dtype), value) for key, value in weights.items()):
        raise ValueError("expected weights of half precision, got others; round them, then calibrate")
    configuration: dict[str, Any] = {
        "setting": setting,
        "classes": list(made.classes),
        "mean": made.mean.tolist(),
        "std": made.std.tolist(),
    }
    with files.whole(folder, _owned) as temporary:
        artifact.write(temporary / "network", _WHAT, configuration, halves)
        artifact.save(made.calibrated, temporary / "calibrated")
        artifact.save(made.policy, temporary / "policy")
        (temporary / _CARD).write_bytes(made.card.encode())


def _owned(folder: Path) -> list[str]:
    ours = [re.escape(_CARD)]
    for part in _PARTS:
        ours += [f"{part}/", *(re.escape(f"{part}/{path}") for path in artifact.owned(folder / part))]
    return manifests.contents(folder, ours, "suffice.models.zoo.ship")
