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

LEAST_SNR = 25.0
"""Least signal-to-noise ratio of rounded activations in dB, 10 log₁₀ (12 · 255² · mean x² / (max x − min x)²).

Activations with a normal distribution have 40, those behind a ReLU 33 to 47; the outliers of transformers leave 22.
"""


def layers(model: Any, feeds: Sequence[Feed], k: int) -> list[str]:
    """Return the names of the convolutions and linear layers of a graph whose activations have outliers.

    Args:
        model: Graph in float32.
        feeds: Inputs of the graph.
        k: Number of its stage.

    Warns:
        UserWarning: If all of them have.
    """
    constants = {initializer.name for initializer in model.graph.initializer}
    candidates = [node for node in model.graph.node if node.op_type in LINEAR]
    ratios = _signal_to_noise(model, {name for node in candidates for name in node.input} - constants, feeds)
    left_out = [node.name for node in candidates if any(ratios.get(name, np.inf) < LEAST_SNR for name in node.input)]
    if len(left_out) == len(candidates):
        warnings.warn(
            f"expected activations of similar size in stage {k}, got a few in each layer that are much larger than the "
            "others; the stage stays in float32",
            stacklevel=5,
        )
    return left_out


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
