"""Every write of the library as an `Operation`, for tests that fail, kill or read it while it runs."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

import suffice
from suffice.data.store import lookup
from suffice.data.store.dataset import StoredDataset
from suffice.data.store.writer import create_dataset
from suffice.deploy.bundle import manifest
from suffice.report import figures, page
from suffice.reproduce import ledger
from suffice.storage import artifact, files, manifests, reading
from suffice.training.checkpoint import Checkpointer
from suffice.training.config import Checkpointing
from suffice.utils.progress import quiet
from tests.report.results import RESULTS


@dataclass(frozen=True)
class Operation:
    """A versioned write below a folder.

    Attributes:
        write: Function that writes a version into the folder.
        read: Function that returns the version in the folder, or None if there is none.
        left: Names of all files and folders after a write.
    """

    write: Callable[[Path, int], object]
    read: Callable[[Path], int | None]
    left: set[str]


def save(folder: Path, version: int) -> None:
    artifact.write(folder / "art", "x", {"version": version}, {"t": torch.full((version % 7 + 1, 50), float(version))})


def load(folder: Path) -> int | None:
    try:
        parts = artifact.read(folder / "art", "x")
    except FileNotFoundError:
        return None
    version = parts.count("version")
    assert torch.equal(parts.tensor("t", "* 50"), torch.full((version % 7 + 1, 50), float(version)))
    return version


SETTINGS = {"epochs": 1000}


def keeper(folder: Path) -> Checkpointer:
    torch.manual_seed(0)
    network = suffice.ExitNetwork([nn.Identity()], [suffice.Exit(nn.Identity(), nn.Linear(2, 2))])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    training = Checkpointer(Checkpointing(folder / "point", every=-1.0), network, SETTINGS["epochs"])
    training.resume(optimizer, SETTINGS, own_rates=False)
    return training


def checkpoint(folder: Path, version: int) -> None:
    writer = keeper(folder)
    writer.after_step(version, torch.tensor(float(version)), version)


def resumed(folder: Path) -> int | None:
    return keeper(folder).position.step or None


def opened(folder: Path) -> ledger.Ledger:
    return ledger.Ledger(folder / "x.json", "command", {}, {})


def measure(folder: Path, version: int) -> None:
    opened(folder).run(f"{version}", lambda: {"value": version})


def measured(folder: Path) -> int | None:
    return max(map(int, opened(folder).results["runs"]), default=None)


def report(folder: Path, version: int) -> None:
    all_figures, figures.FIGURES = figures.FIGURES, {}  # figures take a second
    try:
        page.write({**RESULTS, "closing": f"version {version}."}, [], folder / "report.html")
    finally:
        figures.FIGURES = all_figures


def shown(folder: Path) -> int | None:
    try:
        text = (folder / "report.html").read_text()
    except FileNotFoundError:
        return None
    assert text.endswith("</html>")
    return int(text.rpartition("version ")[2].partition(".")[0])


def results(folder: Path, version: int) -> None:
    files.atomic_write(folder / "deep" / "results.json", json.dumps({"suffice": version}).encode(), b'"suffice"')


def kept(folder: Path) -> int | None:
    try:
        return json.loads((folder / "deep" / "results.json").read_text())["suffice"]
    except FileNotFoundError:
        return None


def imported(folder: Path, version: int) -> None:
    os.environ["SUFFICE_DATA"] = str(folder)
    with create_dataset("things", quiet) as writer:
        writer.save("all_images", np.full((version % 5 + 1, 8), version), np.int64)
        writer.manifest |= {"parts": {"all": version % 5 + 1}, "version": version}


def found(folder: Path) -> int | None:
    """Return the version of a data set; its files and derived arrays must have the same."""
    os.environ["SUFFICE_DATA"] = str(folder)
    try:
        return lookup.read_consistently("things", _version)
    except FileNotFoundError:
        return None


def _version(stored: StoredDataset) -> int:
    version = stored.manifest["version"]
    assert stored.array("all_images").tolist() == [[version] * 8] * (version % 5 + 1)
    assert int(derived(stored)["of"]) == version
    return version


def derived(stored: StoredDataset) -> dict[str, np.ndarray]:
    return stored.derived("split-1", lambda: {"of": stored.array("all_images")[0, 0].copy()})


def derive(folder: Path, version: int) -> None:
    """Write an array that is derived from an existing data set."""
    del version
    os.environ["SUFFICE_DATA"] = str(folder)
    if not (folder / "things").exists():
        imported(folder, 1)
        return
    derived(lookup.find("things"))


def export(folder: Path, version: int) -> None:
    """Write a bundle whose graph and card are the version."""
    entries = {
        "format": manifest.FORMAT,
        "format_version": manifest.FORMAT_VERSION,
        "library": f"suffice {suffice.__version__}",
        "exits": 1,
        "stages": [{"file": "stage-0.onnx"}],
        "version": version,
    }
    manifest.write(folder / "bundle", entries, [f"{version}".encode()], {manifest.CARD: f"{version}".encode()})


def exported(folder: Path) -> int | None:
    try:
        return reading.read_consistently(folder / "bundle", _bundle_version, hashed=False)
    except FileNotFoundError:
        return None


def _bundle_version(bundle: Path) -> int:
    version = manifests.read_manifest(bundle, manifest.FOLDER)["version"]
    assert (bundle / "stage-0.onnx").read_text() == (bundle / "model_card.md").read_text() == f"{version}"
    return version


OPERATIONS = {
    "save": Operation(save, load, {"art", "manifest.json", "tensors.safetensors"}),
    "export": Operation(export, exported, {"bundle", "manifest.json", "model_card.md", "stage-0.onnx"}),
    "checkpoint": Operation(checkpoint, resumed, {"point", "manifest.json", "tensors.safetensors"}),
    "ledger": Operation(measure, measured, {"x.json"}),
    "report": Operation(report, shown, {"report.html"}),
    "results": Operation(results, kept, {"deep", "results.json"}),
    "import": Operation(imported, found, {"things", "manifest.json", "all_images.npy", "verified.json"}),
    "record": Operation(
        derive,
        found,
        {"things", "manifest.json", "all_images.npy", "verified.json", "derived", "split-1.npz"},
    ),
}
