"""Model repository of Triton Inference Server, with one model for each graph of a bundle.

    REPOSITORY/NAME-stage-K/config.pbtxt, 1/model.onnx       and, in the first model, manifest.json and model_card.md

An estimator of the bundle is the model NAME-estimator.
The server batches the requests of several clients for each model, so that survivors of different batches run together.
Triton has no tensor with the axis of examples alone. Such a tensor (N,) has the shape (N, 1) in requests and responses.
"""

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from suffice_runtime.bundle import manifest
from suffice_runtime.bundle.entries import printable
from suffice_runtime.bundle.graphs import GraphFile, Tensor
from suffice_runtime.bundle.manifest import Manifest
from suffice_runtime.bundle.sessions import read_graph

TYPES = {
    "bool": "BOOL",
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
"""Triton's names of types, by those of NumPy."""

_CARD = "model_card.md"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""Names of models."""


def models(name: str, description: Manifest) -> tuple[dict[str, GraphFile], dict[str, GraphFile]]:
    """Return the graphs of the stages, and that of the estimator if there is one, by the names of their models."""
    stages = {f"{name}-stage-{k}": stage for k, stage in enumerate(description.stages)}
    entry = description.estimator
    return stages, {} if entry is None else {f"{name}-estimator": entry.graph}


def write(
    bundle: str | os.PathLike[str], repository: str | os.PathLike[str], name: str, max_batch_size: int = 64
) -> list[str]:
    """Write the graphs of a bundle as models of a repository, all or none.

    Args:
        bundle: Folder of the bundle.
        repository: Folder of the repository, which is created if there is none.
        name: Name before "-stage-0", … and "-estimator": letters, digits, "-", "_" and ".".
        max_batch_size: Number of examples that the server runs together.

    Returns:
        The names of the models.

    Raises:
        FileExistsError: If the repository has one of the models already.
        FileNotFoundError: If the folder is no bundle, or a graph is missing.
        ValueError: If the bundle is damaged or of a newer format, or for another name or size.

    Example:
        >>> from suffice_runtime.triton import repository
        >>> repository.write("bundle", "models", "digits")  # doctest: +SKIP
        ['digits-stage-0', 'digits-stage-1', 'digits-stage-2']
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"expected a name of letters, digits, '-', '_' and '.', got {printable(name)}")
    if isinstance(max_batch_size, bool) or not isinstance(max_batch_size, int) or max_batch_size < 1:
        raise ValueError(f"expected max_batch_size as a whole number of at least 1, got {max_batch_size!r}")
    source, target = Path(bundle), Path(repository).resolve()
    stages, estimator = models(name, manifest.read(source))
    graphs = stages | estimator
    first, *_ = names = list(graphs)
    _check_absent(target, names)
    target.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}-{secrets.token_hex(8)}")  # beside it: a server reads what is in it
    try:
        for model, graph in graphs.items():
            _write_model(unfinished / model, model, graph, read_graph(source, graph), max_batch_size)
        for file in (manifest.FILE, _CARD):
            if (source / file).exists():
                shutil.copyfile(source / file, unfinished / first / file)
        _move(unfinished, target, names)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return names


def _check_absent(target: Path, names: Sequence[str]) -> None:
    """Raise a FileExistsError if a repository has one of some models."""
    for model in names:
        if os.path.lexists(target / model):
            raise FileExistsError(
                f"expected a repository without the model {model}, found it at {printable(target, 200)}; choose "
                "another name, or remove it"
            )


def _write_model(folder: Path, name: str, graph: GraphFile, payload: bytes, max_batch_size: int) -> None:
    """Write one model."""
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(payload)
    (folder / "config.pbtxt").write_text("\n".join([*_config(name, graph, max_batch_size), ""]), encoding="utf-8")


def _move(unfinished: Path, target: Path, names: Sequence[str]) -> None:
    """Move models into a repository; after an error, none of them is left there."""
    moved: list[Path] = []
    try:
        for model in names:
            (unfinished / model).rename(target / model)
            moved.append(target / model)
    except BaseException:
        for folder in moved:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _config(name: str, graph: GraphFile, max_batch_size: int) -> Iterator[str]:
    """Yield the lines of the configuration of a model."""
    yield f'name: "{name}"'
    yield 'backend: "onnxruntime"'
    yield f"max_batch_size: {max_batch_size}"
    for kind, tensors in (("input", graph.inputs), ("output", graph.outputs)):
        for tensor in tensors:
            yield f"{kind} {{ {_tensor(tensor)} }}"
    yield "dynamic_batching { }"


def _tensor(tensor: Tensor) -> str:
    """Return the fields of a tensor; the axis of examples is not among its dimensions."""
    sizes = ", ".join(str(size) if isinstance(size, int) else "-1" for size in tensor.shape[1:])
    shape = f"dims: [ {sizes} ]" if sizes else "dims: [ 1 ] reshape: { shape: [ ] }"
    name = json.dumps(tensor.name, ensure_ascii=False)
    return f"name: {name} data_type: TYPE_{TYPES[tensor.dtype.name]} {shape}"
