"""Folder of a bundle: its manifest, the graphs and a model card, written whole or not at all.

Infinities are the strings "inf" and "-inf", as JSON has none.
"""

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import torch

from suffice._version import __version__
from suffice.budget.policy import Policy
from suffice.calibration.calibrated import Calibrated
from suffice.deploy import checks
from suffice.deploy.inputs import Inputs
from suffice.deploy.quantized import Quantized
from suffice.deploy.stage import Stage
from suffice.deploy.step import KINDS
from suffice.storage import files, manifests, paths

FORMAT, FORMAT_VERSION = "suffice-bundle", 1
"""Name and version of the layout."""

CARD = "model_card.md"
FOLDER = manifests.Kind(
    "a bundle",
    "suffice.export",
    "move it away and export again",
    FORMAT_VERSION,
    entries={"format": str, "stages": list, "exits": int},
    files=lambda manifest: [r"stage-\d+\.onnx", r"model_card\.md"],
    version_entry="format_version",
)
"""Entries and files by which a folder is a bundle, which may be replaced."""

_owned_paths = partial(manifests.owned_paths, kind=FOLDER)


def check_replaceable(folder: str | os.PathLike[str]) -> None:
    """Raise a FileExistsError if `write` would refuse to write to the path."""
    target = paths.resolve(folder)
    if os.path.lexists(target):
        _owned_paths(target)


def write(folder: str | os.PathLike[str], manifest: Mapping[str, Any], graphs: Sequence[bytes], card: str) -> None:
    """Write a bundle, replacing one that is there.

    Raises:
        FileExistsError: If something is there that is not a bundle, or has other files in it.
        OSError: If the folder cannot be written, or the disk is full.
    """
    with (
        files.lock_target(folder) as target,
        target.atomic_folder(_owned_paths) as temporary,
        target.explain_errors(),
    ):
        for entry, graph in zip(manifest["stages"], graphs, strict=True):
            (temporary / entry["file"]).write_bytes(graph)
        (temporary / CARD).write_text(card, encoding="utf-8")
        manifests.write_manifest(temporary, dict(manifest))


def entries(
    calibrated: Calibrated,
    policy: Policy | None,
    inputs: Inputs,
    stages: Sequence[Stage],
    graphs: Sequence[bytes],
    opset: int,
    class_names: Sequence[str] | None,
    preprocessing: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the entries of a manifest."""
    rule = None if policy is None else policy_entries(policy)
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "library": f"suffice {__version__}",
        "suffice": __version__,
        "opset": opset,
        "kind": KINDS[calibrated.likelihood.name],
        "likelihood": calibrated.likelihood.name,
        "exits": len(stages),
        "outputs": checks.num_outputs(calibrated),
        "class_names": None if class_names is None else list(class_names),
        "preprocessing": None if preprocessing is None else dict(preprocessing),
        "ensemble": calibrated.ensemble or "false",
        "inputs": [value.entry() for value in stages[0].before.values],
        "padding": inputs.padding(),
        "stages": [_stage_entries(*pair) for pair in zip(stages, graphs, strict=True)],
        "costs": inputs.costs(calibrated, "confidence" if policy is None else policy.score),
        "policy": rule,
        "quantization": calibrated.quantization if isinstance(calibrated, Quantized) else None,
        "hashes": {
            "network": calibrated.network_hash,
            "calibrated": calibrated.digest,
            "policy": None if rule is None else manifests.digest(rule),
        },
        "versions": {
            "torch": torch.__version__,
            "onnx": version("onnx"),
            "onnxscript": version("onnxscript"),
            "suffice": __version__,
            **({"onnxruntime": version("onnxruntime")} if isinstance(calibrated, Quantized) else {}),
        },
    }


def _stage_entries(stage: Stage, graph: bytes) -> dict[str, Any]:
    return {
        "file": f"stage-{stage.k}.onnx",
        "sha256": hashlib.sha256(graph).hexdigest(),
        "bytes": len(graph),
        "inputs": [value.entry() for value in stage.before.values],
        "outputs": [value.entry() for value in stage.outputs],
    }


def policy_entries(policy: Policy) -> dict[str, Any]:
    """Return the entry of a manifest for a policy, without its profile, which is of another machine and program."""
    promise, sets = policy.promise, policy.sets
    return {
        "score": checks.score_name(policy.score),
        "unit": policy.unit,
        "budget": None if math.isnan(policy.budget) else policy.budget,
        "expected": policy.expected,
        "thresholds": _numbers(policy.thresholds),
        "alternative": None if policy.alternative is None else _numbers(policy.alternative),
        "portion": policy.portion,
        "shares": _numbers(policy.shares),
        "promise": None
        if promise is None
        else {"loss": promise.loss, "max_loss": promise.max_loss, "confidence": promise.confidence},
        "sets": None if sets is None else {**sets.parts()[0], "thresholds": _numbers(sets.thresholds)},
    }


def _numbers(values: torch.Tensor) -> list[float | str]:
    """Return numbers as JSON can hold them."""
    return [str(value) if math.isinf(value) else value for value in values.tolist()]
