"""Manifest of a bundle: what its graphs take and return, what they cost, and the policy to run them under."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from suffice_runtime.bundle.costs import Costs
from suffice_runtime.bundle.entries import Entries, printable
from suffice_runtime.policy import Policy
from suffice_runtime.prediction import KINDS, AnyPrediction

FILE = "manifest.json"
FORMAT = "suffice-bundle"
FORMAT_VERSION = 1

BATCH, TOKENS = "N", "T"
"""Names of the axes of inputs that may have any size: examples, always the first axis, and tokens."""

SCORE = "score"
"""Name of the output with the scores of a policy."""

NEXT = "next."
"""Prefix of the names of outputs that the next graph takes under the name behind it."""


@dataclass(frozen=True)
class Tensor:
    """Name, type and shape of one input or output of a graph.

    Attributes:
        name: Name in the graph.
        dtype: Type of its numbers.
        shape: Size of each axis, or its name if it may have any size.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]

    @classmethod
    def from_entries(cls, entries: Entries) -> "Tensor":
        """Read one input or output of a manifest."""
        name, shape = entries.text("name"), tuple(entries.items("shape"))
        if not shape or shape[0] != BATCH:
            raise entries.refuse("shape", f"with {BATCH!r} as its first axis", list(shape))
        if not all((type(size) is int and size > 0) or (isinstance(size, str) and size) for size in shape):
            raise entries.refuse("shape", "as sizes above 0 and names", list(shape))
        kind = entries.text("dtype")
        if kind not in _DTYPES:
            raise entries.refuse("dtype", f"as one of {sorted(_DTYPES)}", kind)
        return cls(name, np.dtype(kind), shape)

    def matches(self, other: "Tensor") -> bool:
        """Return whether another tensor has the same type and shape, up to the names of axes."""
        sizes, others = ([size if isinstance(size, int) else 0 for size in one.shape] for one in (self, other))
        return self.dtype == other.dtype and sizes == others

    def __str__(self) -> str:
        """Describe the tensor as messages do."""
        return f"{printable(self.name)} {self.dtype} ({', '.join(map(str, self.shape))})"


_DTYPES = frozenset(
    ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")
)


@dataclass(frozen=True)
class Stage:
    """One graph: a stage of the network with its exit.

    Attributes:
        file: Name of the file in the bundle.
        sha256: Checksum of the file, in hexadecimal digits.
        bytes: Size of the file.
        inputs: Inputs of the graph, in order.
        outputs: Outputs of the graph.
    """

    file: str
    sha256: str
    bytes: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @classmethod
    def from_entries(cls, entries: Entries, k: int) -> "Stage":
        """Read stage k of a manifest."""
        inputs, outputs = (tuple(map(Tensor.from_entries, entries.inners(name))) for name in ("inputs", "outputs"))
        for name, tensors in (("inputs", inputs), ("outputs", outputs)):
            if len({tensor.name for tensor in tensors}) != len(tensors) or not tensors:
                raise entries.refuse(name, "with different names", [tensor.name for tensor in tensors])
        file = entries.choice("file", (f"stage-{k}.onnx",))
        return cls(file, entries.text("sha256"), entries.whole("bytes"), inputs, outputs)


@dataclass(frozen=True)
class Manifest:
    """Description of a bundle.

    Attributes:
        kind: Class of its predictions.
        likelihood: Likelihood that the network was calibrated for.
        ensemble: "average" or "product" of the exits, or "false" for each alone.
        inputs: Inputs of the network.
        stages: One graph for each exit.
        costs: Multiply-adds at each exit.
        policy: Policy to run under, or None.
        padding: Name of the input that marks the tokens that count, by a number that is not 0; None without one.
        class_names: Names of the classes, labels or outputs, or None.
        preprocessing: What the network expects to be done to its inputs beforehand, as the exporter wrote it, or None.
        opset: Version of the ONNX operators in the graphs.
        library: Version of suffice that wrote the bundle.
        hashes: Hashes of the network, its calibration and its policy.
        versions: Versions of the libraries that wrote the bundle.
    """

    kind: type[AnyPrediction]
    likelihood: str
    ensemble: str
    inputs: tuple[Tensor, ...]
    stages: tuple[Stage, ...]
    costs: Costs
    policy: Policy | None
    padding: str | None
    class_names: tuple[str, ...] | None
    preprocessing: Mapping[str, Any] | None
    opset: int
    library: str
    hashes: Mapping[str, Any]
    versions: Mapping[str, Any]


def read(folder: Path, check: bool = True) -> Manifest:
    """Read and check the manifest of a bundle.

    Args:
        folder: Folder of the bundle.
        check: Whether to compare the manifest with its own checksum.

    Raises:
        FileNotFoundError: If the folder has no manifest.
        ValueError: If it is no bundle, of a newer format, or an entry is missing or wrong; the message names it.
    """
    try:
        entries = Entries.from_file(folder / FILE)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise FileNotFoundError(
            f"expected a bundle with {FILE}, found none at {printable(folder, 200)}; write one with suffice.export"
        ) from error
    _check_format(entries)
    if check:
        entries.check_digest("manifest_sha256")
    kind = KINDS[entries.choice("kind", tuple(KINDS))]
    exits = entries.whole("exits", 1)
    policy = None if entries.none("policy") else Policy.from_entries(entries.inner("policy"), exits)
    if policy is not None and policy.sets is not None and not policy.sets.applies_to(kind):
        raise entries.refuse("policy.sets.method", f"as a method for a {kind.kind}", policy.sets.method)
    manifest = Manifest(
        kind=kind,
        likelihood=entries.text("likelihood"),
        ensemble=entries.choice("ensemble", ("average", "product", "false")),
        inputs=tuple(map(Tensor.from_entries, entries.inners("inputs"))),
        stages=tuple(Stage.from_entries(stage, k) for k, stage in enumerate(entries.inners("stages", exits))),
        costs=Costs.from_entries(entries.inner("costs"), exits),
        policy=policy,
        padding=None if entries.none("padding") else entries.inner("padding").text("mask"),
        class_names=None if entries.none("class_names") else entries.texts("class_names"),
        preprocessing=None if entries.none("preprocessing") else entries.mapping("preprocessing"),
        opset=entries.whole("opset", 1),
        library=entries.text("suffice"),
        hashes=entries.mapping("hashes"),
        versions=entries.mapping("versions"),
    )
    _check_stages(manifest)
    return manifest


def _check_format(entries: Entries) -> None:
    """Raise a ValueError unless the manifest is that of a bundle that this version can read."""
    entries.choice("format", (FORMAT,))
    version = entries.whole("format_version", 1)
    if version > FORMAT_VERSION:
        raise ValueError(
            f"expected a bundle of format version {FORMAT_VERSION} or earlier, got version {version}, written by "
            f"suffice {printable(entries.optional('suffice'))}; upgrade with pip install --upgrade suffice-runtime"
        )


def _check_stages(manifest: Manifest) -> None:
    """Raise a ValueError unless the stages follow one another and return predictions of the kind."""
    named = [tensor.name for tensor in manifest.inputs]
    for tensor in manifest.inputs:
        if not all(isinstance(size, int) or size == TOKENS for size in tensor.shape[1:]):
            raise _inconsistent("inputs", f"of fixed sizes or {TOKENS!r} behind {BATCH!r}", tensor)
    masks = [tensor.name for tensor in manifest.inputs if tensor.shape == (BATCH, TOKENS)]
    if manifest.padding is not None and manifest.padding not in masks:
        expected = f"one of the inputs of shape ({BATCH}, {TOKENS}), {masks}"
        raise _inconsistent("padding.mask", expected, manifest.padding)
    given = {tensor.name: tensor for tensor in manifest.inputs}
    for k, stage in enumerate(manifest.stages):
        outputs = {tensor.name: tensor for tensor in stage.outputs}
        for tensor in stage.inputs:
            name = f"{NEXT}{tensor.name}" if k else tensor.name
            if name not in given or not given[name].matches(tensor):
                source = f"as {name!r} in the outputs of stage {k - 1}" if k else "in the inputs"
                raise _inconsistent(f"stages[{k}].inputs", f"found {source}", tensor)
        if k == 0 and len(stage.inputs) != len(given):
            raise _inconsistent("stages[0].inputs", f"the inputs {named}", [tensor.name for tensor in stage.inputs])
        scored = manifest.policy is not None and k < len(manifest.stages) - 1
        for name in (*manifest.kind.names(), *((SCORE,) if scored else ())):
            if name not in outputs:
                raise _inconsistent(f"stages[{k}].outputs", f"{name!r} among them", list(outputs))
        given = outputs
    _check_class_names(manifest)


def _check_class_names(manifest: Manifest) -> None:
    """Raise a ValueError unless there is one name for each class, label or output."""
    first = next(tensor for tensor in manifest.stages[-1].outputs if tensor.name == manifest.kind.names()[0])
    if len(first.shape) < 2:
        raise _inconsistent("stages", f"a {first.name} with two axes or more", first)
    size, names = first.shape[1], manifest.class_names
    if names is not None and isinstance(size, int) and len(names) != size:
        raise _inconsistent("class_names", f"{size} names", len(names))


def _inconsistent(name: str, expected: str, got: object) -> ValueError:
    return ValueError(f"expected {name} to be {expected} in {FILE}, got {printable(got)}; export the bundle again")
