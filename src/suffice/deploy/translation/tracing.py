"""A module as the bytes of an ONNX graph: traced by `torch.export`, then translated by `torch.onnx`.

Both are called one after the other, so that an error names the graph, and the line of the user's code or the operation.
"""

import logging
import re
import sysconfig
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from suffice.deploy.graphs import ranges
from suffice.deploy.graphs.graph import Graph
from suffice.deploy.graphs.values import EXAMPLES, Value
from suffice.deploy.translation.decompositions import replace_untranslated
from suffice.utils.text import brief

_LIBRARIES = (Path(__file__).parents[2], Path(torch.__file__).parent)
_PYTHON = Path(sysconfig.get_path("stdlib"))


def trace(graph: Graph) -> torch.export.ExportedProgram:
    """Trace a graph with its dynamic axes.

    Raises:
        ValueError: If it cannot be traced; the message names the graph and, if known, the line.
    """
    tensors = tuple(graph.before.first.values())
    axes = {"tensors": tuple(map(_dynamic, graph.before.values))}
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(graph.module, tensors, dynamic_shapes=axes, strict=False)
    except Exception as error:  # the network of the user, and torch, may raise anything
        raise ValueError(_why_not_traced(graph, tensors, error)) from error


def translate(program: torch.export.ExportedProgram, graph: Graph, opset: int) -> bytes:
    """Translate a traced module to an ONNX graph with the names of its inputs and outputs.

    Raises:
        ValueError: If an operation has no ONNX counterpart, or the version of the operators cannot be reached.
    """
    try:
        with quiet(), torch.no_grad():
            checked = [not name.startswith("state.") for name in graph.before.first]
            program = replace_untranslated(program, ranges.has_unchecked(program, checked))
            translated: Any = torch.onnx.export(program, dynamo=True, opset_version=opset, verbose=False, optimize=True)
    except Exception as error:  # of several libraries
        raise ValueError(
            f"expected {graph.what} to have an ONNX counterpart, got {_untranslated(error)}; compute it by other "
            "operations of torch"
        ) from error
    model = translated.model
    reached = model.opset_imports.get("")
    if reached != opset:
        raise ValueError(
            f"expected {graph.what} in operators of version {opset}, got {reached}, as one of its operations has no "
            f"version for {opset}; pass opset={reached}"
        )
    _name(model, graph.before.values, graph.outputs)
    return _to_bytes(model)


def _dynamic(value: Value) -> dict[int, Any]:
    """Return the dynamic dimensions of an input, as `torch.export` expects them."""
    shared = {EXAMPLES: torch.export.Dim(EXAMPLES)}
    return {
        axis: shared.get(size, torch.export.Dim.DYNAMIC)
        for axis, size in enumerate(value.shape)
        if isinstance(size, str)
    }


def _name(model: Any, inputs: Sequence[Value], outputs: Sequence[Value]) -> None:
    """Set names and shapes of the inputs and outputs of a graph, and remove what is not needed to run it."""
    import onnx_ir as ir

    graph, taken = model.graph, {value.name for value in (*inputs, *outputs)}
    _separate(graph)
    for node in ir.traversal.RecursiveGraphIterator(graph):
        node.metadata_props.clear()  # holds the paths and lines of this machine
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
            if value.name in taken:
                value.name = f"{value.name}~"
    for initializer in list(graph.initializers.values()):
        if initializer.name in taken:
            initializer.name = f"{initializer.name}~"
    ends = [*zip(graph.inputs, inputs, strict=True), *zip(graph.outputs, outputs, strict=True)]
    for value, named in ends:
        value.metadata_props.clear()
        value.name, value.shape = named.name, ir.Shape(named.shape)
    for holder in (model, graph):
        holder.metadata_props.clear()
        holder.doc_string = None


def _separate(graph: Any) -> None:
    """Give each output of a graph a value of its own, which is neither an input, a constant nor another output."""
    import onnx_ir as ir

    found = set(map(id, graph.inputs))
    for i, value in enumerate(graph.outputs):
        if id(value) in found or value.producer() is None:
            node = ir.node("Identity", [value])
            node.outputs[0].type, node.outputs[0].name = value.type, f"{value.name}~{i}"
            graph.append(node)
            graph.outputs[i] = node.outputs[0]
        found.add(id(graph.outputs[i]))


def _to_bytes(model: Any) -> bytes:
    """Return the bytes of a valid graph."""
    import onnx
    import onnx_ir as ir

    proto = ir.serde.serialize_model(model)
    onnx.checker.check_model(proto)
    payload: bytes = proto.SerializeToString(deterministic=True)
    return payload


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings of torch's own exporter, which name packages and functions that users do not call."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _why_not_traced(graph: Graph, tensors: Sequence[Tensor], error: Exception) -> str:
    """Return what a module does that cannot be traced, where, and what to change."""
    reason = brief(str(error).strip().partition("\n")[0] or type(error).__name__, 160)
    place, remedy = _place(error), "compute it by torch operations, without a branch on the values of tensors"
    depends_on_values = "data-dependent" in str(error)
    if not depends_on_values and ("specialized" in str(error) or "Constraints violated" in str(error)):
        reason = "a pass that holds only for the example's number of examples or tokens"
        place = place or _first_length(graph, tensors)
        remedy = "write x.shape[0] in place of len(x), and no number that is made of a shape into a Python int"
    where = f" at {place}" if place else ""
    return f"expected {graph.what} to be one graph for all inputs, got {reason}{where}; {remedy}"


def _place(error: BaseException) -> str | None:
    """Return file and line of the innermost code of the user on the way to an error."""
    return _innermost(traceback.extract_tb(error.__traceback__))


def _innermost(frames: Iterable[traceback.FrameSummary]) -> str | None:
    """Return file and line of the last frame that belongs neither to Python, nor to torch or this library."""
    users = [frame for frame in frames if not _is_library(Path(frame.filename))]
    return f"{Path(users[-1].filename).name}:{users[-1].lineno} ({users[-1].line})" if users else None


def _is_library(file: Path) -> bool:
    if any(file.is_relative_to(folder) for folder in _LIBRARIES) or str(file).startswith("<"):
        return True
    return file.is_relative_to(_PYTHON) and "site-packages" not in file.parts


def _first_length(graph: Graph, tensors: Sequence[Tensor]) -> str | None:
    """Return the first place in a pass that takes the length of a tensor as a Python number."""
    with _LengthsNoted() as noted, torch.no_grad():
        graph.module(*tensors)
    return noted.places[0] if noted.places else None


class _LengthsNoted(TorchFunctionMode):
    """Record of the places where `len(tensor)` is called."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function, and record where the length of a tensor is taken."""
        del types
        if func is Tensor.__len__:
            place = _innermost(traceback.extract_stack())
            self.places += [] if place is None else [place]
        return func(*args, **(kwargs or {}))


def _untranslated(error: BaseException) -> str:
    """Return the operation that has no translation, or the cause of another error."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    for each in reversed(chain):
        if found := re.search(r"No ONNX function found for .*?op='([^']+)'", str(each)):
            return f"the operation {found[1]}, which has none"
    for each in chain:
        if found := re.search(r"Error when translating node .*?target=([\w.]+)", str(each)):
            return f"an error at the operation {found[1]}: {brief(chain[-1], 120)}"
    return f"{type(chain[-1]).__name__}: {brief(str(chain[-1]).strip().partition(chr(10))[0], 160)}"
