"""Layers that rounding to 8 bits would harm: a few of their activations are so large that the others round to zero.

Transformers have them behind the first layer of a feed-forward block (Bondarenko et al. 2021).
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Feed = Mapping[str, np.ndarray]
"""Inputs of a graph by name."""

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that compute in integers."""

BETWEEN = ("AveragePool", "Clip", "Concat", "Flatten", "GlobalAveragePool", "MaxPool", "Relu", "Reshape", "Transpose")
"""Operators between them that keep the scale of their inputs, or nearly, so that numbers stay integers."""

LEAST_SNR = 25.0
"""Least signal-to-noise ratio of rounded activations in dB, 10 log₁₀ (12 · 255² · mean x² / (max x − min x)²).

Activations with a normal distribution have 40, those behind a ReLU 33 to 47; the outliers of transformers leave 22.
"""


def nodes(model: Any, feeds: Sequence[Feed], k: int) -> list[str]:
    """Return the names of the operators of a graph that stay in float32.

    They are the convolutions and linear layers that read activations with outliers, and those operators behind which
    such activations would be rounded: the layer that computes them, and what lies between.

    Args:
        model: Graph in float32, whose operators have names.
        feeds: Inputs of the graph.
        k: Number of its stage.

    Warns:
        UserWarning: If they are all convolutions and linear layers.
    """
    constants = {initializer.name for initializer in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type in LINEAR]
    read = {name for node in layers for name in node.input} - constants
    ratios = _signal_to_noise(model, read | {value.name for value in model.graph.output}, feeds)
    noisy = {name for name, ratio in ratios.items() if ratio < LEAST_SNR}
    left_out = {node.name for node in layers if noisy.intersection(node.input)} | _behind(model, noisy)
    if left_out.issuperset(node.name for node in layers):
        warnings.warn(
            f"expected activations of similar size in stage {k}, got a few in each layer that are much larger than the "
            "others; the stage stays in float32",
            stacklevel=5,
        )
    return sorted(left_out)


def _behind(model: Any, tensors: set[str]) -> set[str]:
    """Return the names of the operators behind which tensors are rounded, back to the layers that compute them."""
    producers = {name: node for node in model.graph.node for name in node.output}
    found, pending = set[str](), sorted(tensors)
    while pending:
        node = producers.get(pending.pop())
        if node is None or node.op_type not in (*LINEAR, *BETWEEN) or node.name in found:
            continue
        found.add(node.name)
        if node.op_type in BETWEEN:
            pending += node.input
    return found


def _signal_to_noise(model: Any, names: set[str], feeds: Sequence[Feed]) -> dict[str, float]:
    """Return the signal-to-noise ratio in dB that tensors of a graph would have in 8 bits, by name."""
    import onnx
    import onnxruntime

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    given = {value.name for value in (*model.graph.input, *model.graph.output)}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(names - given))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    computed = [node.name for node in session.get_outputs()]
    sums = {name: _Range() for name in names}
    for feed in feeds:
        for name, values in {**feed, **dict(zip(computed, session.run(computed, feed), strict=True))}.items():
            if name in sums:
                sums[name].add(values)
    return {name: found.signal_to_noise for name, found in sums.items()}


class _Range:
    """Range and mean square of the values of a tensor."""

    def __init__(self) -> None:
        self._least, self._most, self._square, self._count = 0.0, 0.0, 0.0, 0

    def add(self, values: np.ndarray) -> None:
        """Add the values of a batch."""
        self._least, self._most = min(self._least, float(values.min())), max(self._most, float(values.max()))
        self._square += float(np.square(values, dtype=np.float64).sum())
        self._count += values.size

    @property
    def signal_to_noise(self) -> float:
        """Mean square in dB of that of the rounding error; NaN for infinite values or zeros."""
        with np.errstate(all="ignore"):
            noise = np.float64(self._most - self._least) ** 2 / (12 * 255**2)
            return float(10 * np.log10(self._square / self._count / noise))
