"""Run folders: a network and what was fitted to it, each in an artifact of its own.

network       weights, and the name of the function that builds it; may be missing
calibrated    calibrated exits
policy        rule by which examples stop; may be missing
variation     variation estimator; may be missing, and may be there without exits
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from suffice.budget.policy import Policy
from suffice.calibration.calibrated import Calibrated
from suffice.models import zoo
from suffice.runs import networks
from suffice.storage import artifact
from suffice.utils.text import printable
from suffice.variation.estimator import VariationEstimator

NETWORK, CALIBRATED, POLICY, VARIATION = "network", "calibrated", "policy", "variation"
"""Names of the artifacts."""


@dataclass(frozen=True)
class Run:
    """Network and what was fitted to it.

    Attributes:
        network: Network with its weights.
        calibrated: Calibrated network, or None.
        policy: Policy of the calibrated network, or None.
        estimator: Variation estimator, or None.
        class_names: Names of the outputs, or None.
        preprocessing: Description of how inputs are made, or None.
    """

    network: nn.Module
    calibrated: Calibrated | None
    policy: Policy | None = None
    estimator: VariationEstimator | None = None
    class_names: tuple[str, ...] | None = None
    preprocessing: Mapping[str, Any] | None = None

    @property
    def fitted(self) -> Calibrated | VariationEstimator:
        """Calibrated network, or the estimator if there are no exits."""
        fitted = self.calibrated or self.estimator
        assert fitted is not None  # by `read`
        return fitted


def read(run: str, network: str | None = None, weights: Path | None = None, *, variation: bool = True) -> Run:
    """Read a run from its folder, or a pretrained network of the library.

    Args:
        run: Path of the folder, or name of a pretrained network.
        network: Name of the network, as for `networks.build`; None for that in the folder.
        weights: File of its weights; None if the function loads them itself.
        variation: Read the variation estimator too, if there is one.

    Raises:
        FileNotFoundError: If there is no such folder, or it has neither calibrated exits nor an estimator.
        ValueError: If an artifact is damaged or was fitted to other weights, or the network is not known.
        TypeError: If the function of the network returns anything but a module.
    """
    folder = Path(run)
    if not folder.exists() and run in zoo.names():
        if network is not None or weights is not None:
            raise ValueError(f"expected no --network and no --weights for the pretrained {run}, got one; omit it")
        return _pretrained(run)
    wanted = (CALIBRATED, VARIATION) if variation else (CALIBRATED,)
    found = [name for name in wanted if (folder / name).is_dir()]
    if not found:
        raise FileNotFoundError(
            f"expected a folder with {CALIBRATED} or {VARIATION}, as suffice.save and suffice demo write them, or one "
            f"of {zoo.names()}, got {printable(run)!r}"
        )
    module = _network(folder, network, weights)
    parts = {name: _part(folder, name, module) for name in found}
    calibrated = parts.get(CALIBRATED)
    policy = artifact.load(folder / POLICY) if calibrated is not None and (folder / POLICY).is_dir() else None
    if policy is not None:
        policy.check_made_for(calibrated)
    return Run(module, calibrated, policy, parts.get(VARIATION))


def _part(folder: Path, name: str, network: nn.Module) -> Any:
    """Return an artifact that was fitted to a network.

    Raises:
        ValueError: If it is damaged, or was fitted to another network; the message names the artifact.
    """
    try:
        return artifact.load(folder / name, network=network)
    except (TypeError, ValueError) as error:
        remedy = "name the network with its exits by --network, and its weights by --weights"
        if name == VARIATION:
            remedy = "fit the estimator to the network with exits, or leave it out by --no-variation"
        raise ValueError(f"in {printable(folder / name)}: {error}; {remedy}") from error


def _network(folder: Path, name: str | None, weights: Path | None) -> nn.Module:
    """Return the network of a folder, or that of a name with weights of a file."""
    if name is not None:
        module = networks.build(name)
        if weights is not None:
            networks.read_weights(module, weights)
        return module
    if weights is not None:
        raise ValueError("expected --network with --weights, got none; name the function that builds the network")
    if not (folder / NETWORK).is_dir():
        raise ValueError(
            f"expected the network of {printable(folder)}, got none; name it by --network package.module:function, and "
            "its weights by --weights FILE"
        )
    return networks.load(folder / NETWORK)


def _pretrained(name: str) -> Run:
    made = zoo.pretrained(name)
    preprocessing = {"scale": 1 / 255, "mean": made.mean.tolist(), "std": made.std.tolist()}
    return Run(made.network, made.calibrated, made.policy, None, made.classes, preprocessing)
