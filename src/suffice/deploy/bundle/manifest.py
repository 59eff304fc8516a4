"""Folder of a bundle: its manifest, the files of its graphs and a model card, written whole or not at all.

Infinities are the strings "inf" and "-inf", as JSON has none.
"""

import hashlib
import math
import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import torch

from suffice._version import __version__
from suffice.budget.policy import Policy
from suffice.deploy import checks
from suffice.deploy.bundle.tokenizer import FILE, Tokenizer
from suffice.deploy.graphs.graph import Graph
from suffice.deploy.graphs.inputs import Inputs
from suffice.deploy.graphs.lengths import Lengths
from suffice.deploy.graphs.limits import Limits
from suffice.deploy.graphs.values import Value, tensors_of
from suffice.deploy.quantization.quantized import Quantized
from suffice.deploy.sources import Sources
from suffice.deploy.translation.formats import SUFFIXES, Format
from suffice.storage import files, manifests, paths
from suffice.variation.estimator import VariationEstimator
from suffice.variation.teachers.dropout import configuration_of

FORMAT, FORMAT_VERSION = "suffice-bundle", 1
"""Name and version of the layout."""

CARD = "model_card.md"


def _file_patterns(manifest: Mapping[str, Any]) -> list[str]:
    """Return patterns of the files beside a manifest, whose bundle has graphs of one format."""
    suffix = SUFFIXES.get(str(manifest.get("graph_format", "onnx")))  # bundles before it do not have the entry
    graphs = [] if suffix is None else [rf"stage-\d+{re.escape(suffix)}", f"estimator{re.escape(suffix)}"]
    return [*graphs, re.escape(CARD), re.escape(FILE)]


FOLDER = manifests.Kind(
    "a bundle",
    "suffice.export",
    "move it away and export again",
    FORMAT_VERSION,
    entries={"format": str, "stages": list, "exits": int},
    files=_file_patterns,
    version_entry="format_version",
)
"""Entries and files by which a folder is a bundle, which may be replaced."""

_NO_COSTS: dict[str, Any] = {"macs": [], "length": None, "by_length": None}
"""Costs of a bundle without exits."""

owned_paths = partial(manifests.owned_paths, kind=FOLDER)


def check_replaceable(folder: str | os.PathLike[str]) -> None:
    """Raise a FileExistsError if `write` would refuse to write to the path."""
    target = paths.resolve(folder)
    if os.path.lexists(target):
        owned_paths(target)


def described_graphs(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the entries of the graphs of a bundle: those of the stages, then that of the estimator if there is one."""
    estimator = manifest.get("estimator")
    return [*manifest["stages"], *([] if estimator is None else [estimator])]


def _input_entries(value: Value, limits: tuple[int | None, ...] | None) -> dict[str, Any]:
    """Return the entries of an input, with its range or those of its columns if it has some."""
    if limits is None:
        return value.entry()
    ranges = [None if most is None else [0, most] for most in limits]
    return {**value.entry(), **({"range": ranges[0]} if len(ranges) == 1 else {"ranges": ranges})}


def write(
    folder: str | os.PathLike[str], manifest: Mapping[str, Any], graphs: Sequence[bytes], others: Mapping[str, bytes]
) -> None:
    """Write a bundle, replacing one that is there.

    Args:
        folder: Folder to write.
        manifest: Entries of its manifest.
        graphs: Bytes of its graphs, in the order of `described_graphs`.
        others: Bytes of the other files by name.

    Raises:
        FileExistsError: If something is there that is not a bundle, or has other files in it.
        OSError: If the folder cannot be written, or the disk is full.
    """
    with (
        files.lock_target(folder) as target,
        target.atomic_folder(owned_paths) as temporary,
        target.explain_errors(),
    ):
        for entry, graph in zip(described_graphs(manifest), graphs, strict=True):
            (temporary / entry["file"]).write_bytes(graph)
        for name, payload in others.items():
            (temporary / name).write_bytes(payload)
        manifests.write_manifest(temporary, dict(manifest))


def entries(
    sources: Sources,
    inputs: Inputs,
    limits: Limits,
    graphs: Sequence[Graph],
    payloads: Sequence[bytes],
    format: Format,
    class_names: Sequence[str] | None,
    tokenizer: Tokenizer | None,
    preprocessing: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the entries of a manifest, for graphs in the order of `described_graphs` and their bytes."""
    described = [_graph_entries(*pair, format.suffix) for pair in zip(graphs, payloads, strict=True)]
    stages = described if sources.estimator is None else described[:-1]
    calibrated, policy = sources.calibrated, sources.policy
    rule = None if policy is None else policy_entries(policy)
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "library": f"suffice {__version__}",
        "suffice": __version__,
        "graph_format": format.name,
        "device": None if format.name == "onnx" else tensors_of(inputs.x)[0].device.type,
        "opset": format.opset,
        "kind": sources.kind,
        "likelihood": sources.likelihood,
        "exits": len(stages),
        "outputs": sources.outputs(inputs.x),
        "class_names": None if class_names is None else list(class_names),
        "preprocessing": None if preprocessing is None else dict(preprocessing),
        "ensemble": "false" if calibrated is None else calibrated.ensemble or "false",
        "inputs": [_input_entries(value, limits.ranges.get(value.name)) for value in graphs[0].before.values],
        "tokens": _token_entries(limits.lengths) if inputs.tokens is not None else None,
        "padding": inputs.padding(),
        "tokenizer": None if tokenizer is None else {**_file_entries(FILE, tokenizer.payload), **tokenizer.entries()},
        "stages": stages,
        "costs": _NO_COSTS
        if calibrated is None
        else inputs.costs(calibrated, "confidence" if policy is None else policy.score),
        "policy": rule,
        "policies": [policy_entries(each) for each in sources.policies if each is not policy],
        "estimator": None if sources.estimator is None else {**described[-1], **estimator_entries(sources.estimator)},
        "quantization": calibrated.quantization if isinstance(calibrated, Quantized) else None,
        "hashes": {
            "network": sources.network_hash,
            "calibrated": None if calibrated is None else calibrated.digest,
            "policy": None if rule is None else manifests.digest(rule),
        },
        "versions": {
            "torch": torch.__version__,
            **{name: version(name) for name in format.packages},
            "suffice": __version__,
            **({"onnxruntime": version("onnxruntime")} if isinstance(calibrated, Quantized) else {}),
        },
    }


def _token_entries(lengths: Lengths) -> dict[str, int | None]:
    return {"least": lengths[0], "most": lengths[1]}


def _file_entries(file: str, payload: bytes) -> dict[str, Any]:
    return {"file": file, "sha256": hashlib.sha256(payload).hexdigest(), "bytes": len(payload)}


def _graph_entries(graph: Graph, payload: bytes, suffix: str) -> dict[str, Any]:
    return {
        **_file_entries(f"{graph.file}{suffix}", payload),
        "inputs": [value.entry() for value in graph.before.values],
        "outputs": [value.entry() for value in graph.outputs],
    }


def estimator_entries(estimator: VariationEstimator) -> dict[str, Any]:
    """Return the entries of a manifest for an estimator, besides those of its graph."""
    teacher, quality = estimator.teacher, estimator.quality
    return {
        "target": estimator.fitted_mlp.target.name,
        "likelihood": estimator.reader.likelihood,
        "layers": list(estimator.layers),
        "macs": estimator.macs,
        "teacher": None if teacher is None else {"name": type(teacher).__name__, **(configuration_of(teacher) or {})},
        "passes": estimator.fitted_mlp.passes,
        "quality": {"r_squared": _number(quality.r_squared), "log_error": _number(quality.log_error)},
        "network": estimator.network_hash,
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
        "made_for": policy.made_for,
    }


def _numbers(values: torch.Tensor) -> list[float | str | None]:
    """Return numbers as JSON can hold them."""
    return [_number(value) for value in values.tolist()]


def _number(value: float) -> float | str | None:
    """Return a number as JSON can hold it, None for NaN."""
    if math.isnan(value):
        return None
    return str(value) if math.isinf(value) else value
