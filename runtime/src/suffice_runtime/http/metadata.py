"""Documents about the server and its models, in the forms of the protocol and of Triton's extensions."""

from collections.abc import Mapping, Sequence
from typing import Any

from suffice_runtime._version import __version__
from suffice_runtime.bundle.graphs import Tensor
from suffice_runtime.http import texts
from suffice_runtime.http.codec.tensors import BYTES, datatype_of
from suffice_runtime.http.outputs import Described
from suffice_runtime.serving.engine import Engine
from suffice_runtime.serving.statistics import Histogram

PLATFORM = "suffice_onnxruntime"

NAME = "suffice-runtime"

EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "parameters", "statistics")
"""Extensions of the protocol that the server has; of the repository, its index alone."""


def server() -> dict[str, Any]:
    """Return the document about the server."""
    return {"name": NAME, "version": __version__, "extensions": list(EXTENSIONS)}


def model(engine: Engine, versions: Sequence[str], outputs: Mapping[str, Described]) -> dict[str, Any]:
    """Return the document about a model: its inputs and outputs."""
    given = [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in _inputs(engine)]
    found = [
        {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)} for output in outputs.values()
    ]
    return {"name": engine.name, "versions": list(versions), "platform": PLATFORM, "inputs": given, "outputs": found}


def configuration(engine: Engine, outputs: Mapping[str, Described], most: int) -> dict[str, Any]:
    """Return the configuration of a model as Triton has it, whose dimensions are those of one example.

    Args:
        engine: Engine of the model.
        outputs: Its outputs.
        most: Greatest number of examples in a request.
    """
    given = [_configured(name, datatype, shape[1:]) for name, datatype, shape in _inputs(engine)]
    found = [_configured(o.name, o.datatype, list(o.shape[1:])) for o in outputs.values()]
    return {
        "name": engine.name,
        "platform": PLATFORM,
        "backend": NAME,
        "max_batch_size": most,
        "input": given,
        "output": found,
    }


def statistics(engine: Engine) -> dict[str, Any]:
    """Return the statistics of a model as Triton has them, in nanoseconds."""
    counts = engine.statistics()
    requests = counts.request_seconds
    batches = sum(sizes.count for sizes in counts.batch_sizes)
    return {
        "name": engine.name,
        "version": engine.version,
        "inference_count": counts.examples,
        "execution_count": batches,
        "inference_stats": {
            "success": _duration(requests),
            "fail": {"count": counts.invalid + counts.refused, "ns": 0},
            "cancel": {"count": counts.cancelled, "ns": 0},
        },
        "batch_stats": [
            {"stage": k, "compute_infer": _duration(seconds)} for k, seconds in enumerate(counts.stage_seconds)
        ],
    }


def _duration(seconds: Histogram) -> dict[str, int]:
    return {"count": seconds.count, "ns": round(1e9 * seconds.total)}


def _inputs(engine: Engine) -> list[tuple[str, str, list[int]]]:
    """Return name, datatype and shape of each input; of a model that answers texts, the texts alone."""
    if texts.takes_texts(engine):
        return [(texts.TEXT, BYTES, [-1])]
    return [(tensor.name, datatype_of(tensor.dtype), _sizes(tensor)) for tensor in engine.manifest.inputs]


def _sizes(tensor: Tensor) -> list[int]:
    """Return the shape of an input, −1 for sizes that may be any."""
    return [size if isinstance(size, int) else -1 for size in tensor.shape]


def _configured(name: str, datatype: str, dims: list[int]) -> dict[str, Any]:
    """Return a tensor of a configuration."""
    return {"name": name, "data_type": "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}", "dims": dims}
