"""Manifest of a bundle: its graphs, what they cost, and the policy to run them under."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suffice_runtime.bundle import policies
from suffice_runtime.bundle.costs import Costs
from suffice_runtime.bundle.entries import Entries, printable
from suffice_runtime.bundle.estimator import EstimatorFile
from suffice_runtime.bundle.graphs import BATCH, TOKENS, GraphFile, Tensor
from suffice_runtime.bundle.tokenizer import TokenizerFile
from suffice_runtime.policy import Policy
from suffice_runtime.prediction import KINDS, AnyPrediction

FILE = "manifest.json"
FORMAT = "suffice-bundle"
FORMAT_VERSION = 1

GRAPH_FORMAT = "onnx"
"""Format of graphs that the runtime runs, of those that suffice exports."""

ESTIMATOR = "estimator"
"""Kind of a bundle that holds an estimator alone."""

SCORE = "score"
"""Name of the output with the scores of a policy."""

NEXT = "next."
"""Prefix of the names of outputs that the next graph takes under the name behind it."""


@dataclass(frozen=True)
class Manifest:
    """Description of a bundle.

    Attributes:
        kind: Class of its predictions; None for an estimator alone.
        likelihood: Likelihood that the network was calibrated for, or meaning of the model's output.
        ensemble: "average" or "product" of the exits, or "false" for each alone.
        inputs: Inputs of the network.
        stages: One graph for each exit; none for an estimator alone.
        costs: Multiply-adds at each exit.
        policy: Policy to run under, or None.
        policies: All policies that a service may use, `policy` among them, of rising fraction of the full cost on the
            validation data; empty without one.
        estimator: Estimator of the variation, or None.
        padding: Name of the input that marks the tokens that count, by a number that is not 0; None without one.
        tokenizer: Tokenizer that makes the inputs of texts, or None.
        lengths: Least and greatest number of tokens that the graphs are right for; None if there is no greatest.
        class_names: Names of the classes, labels or outputs, or None.
        preprocessing: What the network expects to be done to its inputs beforehand, as the exporter wrote it, or None.
        opset: Version of the ONNX operators in the graphs.
        library: Version of suffice that wrote the bundle.
        hashes: Hashes of the network, its calibration and its policy.
        versions: Versions of the libraries that wrote the bundle.
    """

    kind: type[AnyPrediction] | None
    likelihood: str
    ensemble: str
    inputs: tuple[Tensor, ...]
    stages: tuple[GraphFile, ...]
    costs: Costs
    policy: Policy | None
    policies: tuple[Policy, ...]
    estimator: EstimatorFile | None
    padding: str | None
    tokenizer: TokenizerFile | None
    lengths: tuple[int, int | None]
    class_names: tuple[str, ...] | None
    preprocessing: Mapping[str, Any] | None
    opset: int
    library: str
    hashes: Mapping[str, Any]
    versions: Mapping[str, Any]

    def fraction(self, policy: Policy) -> float:
        """Return the mean multiply-adds of a policy on the validation data as a fraction of those of the last exit.

        For texts, both are those of the length of the exported example.
        """
        return policies.fraction(policy, self.costs)


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
    kind = KINDS.get(entries.choice("kind", (*KINDS, ESTIMATOR)))
    exits = entries.whole("exits", 0 if kind is None else 1)
    found = policies.read(entries, exits)
    _check_kind(entries, kind, exits, found)
    inputs = tuple(map(Tensor.from_entries, entries.inners("inputs")))
    estimator = None
    if entries.optional("estimator") is not None:  # bundles before it do not have the entry
        estimator = EstimatorFile.from_entries(entries.inner("estimator"), inputs)
    stages = tuple(
        GraphFile.from_entries(stage, f"stage-{k}.onnx") for k, stage in enumerate(entries.inners("stages", exits))
    )
    costs = Costs.from_entries(entries.inner("costs"), exits)
    manifest = Manifest(
        kind=kind,
        likelihood=entries.text("likelihood"),
        ensemble=entries.choice("ensemble", ("average", "product", "false")),
        inputs=inputs,
        stages=stages,
        costs=costs,
        policy=found[0] if found else None,
        policies=tuple(sorted(found, key=lambda policy: policies.fraction(policy, costs))),
        estimator=estimator,
        padding=None if entries.none("padding") else entries.inner("padding").text("mask"),
        tokenizer=_tokenizer(entries, inputs),
        lengths=_lengths(entries),
        class_names=None if entries.none("class_names") else entries.texts("class_names"),
        preprocessing=None if entries.none("preprocessing") else entries.mapping("preprocessing"),
        opset=entries.whole("opset", 1),
        library=entries.text("suffice"),
        hashes=entries.mapping("hashes"),
        versions=entries.mapping("versions"),
    )
    _check_inputs(manifest)
    if kind is not None:
        _check_stages(manifest, kind)
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
    graphs = entries.optional("graph_format")  # bundles before it, of ONNX graphs, do not have the entry
    if graphs not in (None, GRAPH_FORMAT):
        raise ValueError(
            f"expected ONNX graphs, got format {printable(repr(graphs))} in {FILE}; export again with format='onnx', "
            "or run the programs with torch, as docs/deploy.md of suffice shows"
        )


def _tokenizer(entries: Entries, inputs: Sequence[Tensor]) -> TokenizerFile | None:
    """Return the tokenizer; none in bundles before the entry."""
    if entries.optional("tokenizer") is None:
        return None
    return TokenizerFile.from_entries(entries.inner("tokenizer"), inputs)


def _lengths(entries: Entries) -> tuple[int, int | None]:
    """Return the numbers of tokens that the graphs are right for; any in bundles before the entry."""
    if entries.optional("tokens") is None:
        return 1, None
    inner = entries.inner("tokens")
    least = inner.whole("least", 1)
    return least, None if inner.none("most") else inner.whole("most", least)


def _check_kind(entries: Entries, kind: type[AnyPrediction] | None, exits: int, found: tuple[Policy, ...]) -> None:
    """Raise a ValueError unless exits, policies and estimator are those of a kind."""
    if kind is None:
        if exits or found or entries.optional("estimator") is None:
            raise entries.refuse("kind", "for a network with exits", ESTIMATOR)
        return
    for policy in found:
        if policy.sets is not None and not policy.sets.applies_to(kind):
            raise entries.refuse("policy.sets.method", f"as a method for a {kind.kind}", policy.sets.method)


def _check_inputs(manifest: Manifest) -> None:
    """Raise a ValueError unless the inputs have known axes, among them that of the tokens if there is padding."""
    for tensor in manifest.inputs:
        if not all(isinstance(size, int) or size == TOKENS for size in tensor.shape[1:]):
            raise _inconsistent("inputs", f"of fixed sizes or {TOKENS!r} behind {BATCH!r}", tensor)
    masks = [tensor.name for tensor in manifest.inputs if tensor.shape == (BATCH, TOKENS)]
    if manifest.padding is not None and manifest.padding not in masks:
        expected = f"one of the inputs of shape ({BATCH}, {TOKENS}), {masks}"
        raise _inconsistent("padding.mask", expected, manifest.padding)


def _check_stages(manifest: Manifest, kind: type[AnyPrediction]) -> None:
    """Raise a ValueError unless the stages follow one another and return predictions of the kind."""
    named = [tensor.name for tensor in manifest.inputs]
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
        for name in (*kind.names(), *((SCORE,) if scored else ())):
            if name not in outputs:
                raise _inconsistent(f"stages[{k}].outputs", f"{name!r} among them", list(outputs))
        given = outputs
    _check_class_names(manifest, given[kind.names()[0]])


def _check_class_names(manifest: Manifest, first: Tensor) -> None:
    """Raise a ValueError unless there is one name for each class, label or output in the first field of predictions."""
    if len(first.shape) < 2:
        raise _inconsistent("stages", f"a {first.name} with two axes or more", first)
    size, names = first.shape[1], manifest.class_names
    if names is not None and isinstance(size, int) and len(names) != size:
        raise _inconsistent("class_names", f"{size} names", len(names))


def _inconsistent(name: str, expected: str, got: object) -> ValueError:
    return ValueError(f"expected {name} to be {expected} in {FILE}, got {printable(got)}; export the bundle again")
