"""Quantization of a graph by the tools of ONNX Runtime: 8-bit weights and activations with fixed scales.

Convolutions and linear layers compute in integers. Weights have a scale for each channel and 7 bits, as processors
without an instruction for dot products of 8 bits (AVX2 and AVX-512 without VNNI) add pairs of products with 16 bits,
which 8 bits would saturate without an error. So a bundle gives the same answers on all of them.

Scales of activations are those of the largest values in a few batches. Scales that are computed anew for each batch, as
by `quantize_dynamic`, would make the answer to an example depend on the others in its batch. Layers whose activations
have outliers stay in float32 (`outliers`).
Jacob et al. 2018.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from suffice.deploy.quantization import outliers
from suffice.deploy.quantization.outliers import BETWEEN, LINEAR, Feed

_ATTENTION = "Softmax"
"""Operator of graphs whose sums stay in float32: those before it are masked with infinities."""

SETTINGS = {
    "method": "static",
    "weights": "int8",
    "weight_bits": 7,
    "per_channel": True,
    "activations": "uint8",
    "least_snr_db": outliers.LEAST_SNR,
}
"""Entries of a manifest."""


def quantize_graph(graph: bytes, feeds: Sequence[Feed], k: int) -> bytes:
    """Return a graph that computes in integers where it can.

    Args:
        graph: Graph in float32.
        feeds: Inputs by which the scales of activations are chosen.
        k: Number of its stage.

    Raises:
        ValueError: If it has neither a convolution nor a linear layer, or activations that are not finite.

    Warns:
        UserWarning: If all of them stay in float32.
    """
    import onnx
    from onnxruntime import quantization as ort

    with tempfile.TemporaryDirectory() as folder:
        original, prepared, quantized = (Path(folder, f"{name}.onnx") for name in ("original", "prepared", "quantized"))
        original.write_bytes(graph)
        ort.quant_pre_process(original, prepared, skip_symbolic_shape=True)
        model = onnx.load(prepared)
        for i, node in enumerate(model.graph.node):
            node.name = f"{node.op_type}.{i}"  # by which layers are left out; names may be missing or repeated
        onnx.save(model, prepared)
        operators, left_out = _operators(model, k), outliers.nodes(model, feeds, k)
        with np.errstate(all="ignore"):  # of scales, which are checked below
            ort.quantize_static(
                prepared,
                quantized,
                _reader(feeds),
                op_types_to_quantize=operators,
                nodes_to_exclude=left_out,
                quant_format=ort.QuantFormat.QDQ,
                per_channel=SETTINGS["per_channel"],
                reduce_range=SETTINGS["weight_bits"] == 7,
                activation_type=ort.QuantType.QUInt8,
                weight_type=ort.QuantType.QInt8,
            )
        model = onnx.load(quantized)
    _check_scales(model, k)
    del model.metadata_props[:]
    payload: bytes = model.SerializeToString(deterministic=True)
    return payload


def _operators(model: Any, k: int) -> list[str]:
    """Return the types of operators to quantize."""
    constants = {initializer.name for initializer in model.graph.initializer}
    if not any(node.op_type in LINEAR and constants.intersection(node.input) for node in model.graph.node):
        raise ValueError(
            f"expected a convolution or a linear layer in stage {k} or the features of its exit, got none, so that "
            "nothing can be quantized; put this exit elsewhere, or export the network in float32"
        )
    types = {node.op_type for node in model.graph.node}
    return [*LINEAR, *BETWEEN, *(() if _ATTENTION in types else ("Add",))]


def _check_scales(model: Any, k: int) -> None:
    """Raise a ValueError unless all scales are finite."""
    from onnx import numpy_helper

    scales = {node.input[1] for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    constants = [numpy_helper.to_array(each) for each in model.graph.initializer if each.name in scales]
    if not all(np.isfinite(scale).all() for scale in constants):
        raise ValueError(
            f"expected finite activations in stage {k}, got infinities before or behind a layer that is quantized; "
            "mask them by a large number, such as masked_fill(mask, -1e4), or behind the layer"
        )


def _reader(feeds: Sequence[Feed]) -> Any:
    """Return a reader of inputs as the tools take it."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Reader of inputs one after the other."""

        def __init__(self) -> None:
            self._remaining = iter(feeds)

        def get_next(self) -> Feed | None:
            """Return the next inputs, or None behind the last."""
            return next(self._remaining, None)

    return Reader()
