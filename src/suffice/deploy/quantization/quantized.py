"""Calibrated networks whose stages and features are quantized, and run by ONNX Runtime."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from suffice.batches import Loader
from suffice.calibration.calibrated import Calibrated
from suffice.calibration.exits import CalibratedExit
from suffice.calibration.serving.served import Served
from suffice.deploy.graphs.graph import Graph
from suffice.deploy.graphs.limits import Limits
from suffice.deploy.graphs.templates import Template
from suffice.deploy.graphs.values import TOKENS, Value, tensors_of
from suffice.deploy.quantization.outliers import Feed
from suffice.deploy.translation.formats import Format
from suffice.inputs import prepare
from suffice.network import State, check_finite
from suffice.utils.modes import full_precision


@dataclass(frozen=True)
class Backbone:
    """Quantized stage with the features of its exit.

    Attributes:
        graph: ONNX graph.
        inputs: Its inputs, the tensors of the state before the stage.
        before: Nest of this state, without its tensors.
        after: Nest of the state behind the stage, without its tensors.
        limits: Inputs that the graph is right for, since it gives no error for others.
    """

    graph: bytes
    inputs: tuple[Value, ...]
    before: Template
    after: Template
    limits: Limits

    @classmethod
    def of(cls, stage: Graph, graph: bytes, limits: Limits) -> "Backbone":
        """Return the backbone of a stage from `split.prepare_backbone`."""
        return cls(graph, tuple(stage.before.values), stage.before.template, stage.after, limits)

    def __call__(self, state: State) -> tuple[State, Tensor]:
        """Return the state behind the stage and the features φ (N, D) of its exit, on the device of the state.

        Raises:
            ValueError: If `feed` raises one.
        """
        device = tensors_of(state)[0].device
        phi, *tensors = (torch.from_numpy(array).to(device) for array in self._session.run(None, self.feed(state)))
        return self.after.fill(tensors), phi

    def feed(self, state: State) -> Feed:
        """Return the inputs of the graph by name.

        Raises:
            ValueError: If the state has tensors of other shapes or types, or other plain values, than those that the
                network was quantized for, or integers out of range.
        """
        tensors = tensors_of(state)
        if not self.before.is_like(state):
            raise ValueError(
                "expected inputs with the keys and plain values that the network was quantized for, got others; "
                "quantize it for inputs like these"
            )
        if not all(map(_fits, self.inputs, tensors)):
            raise ValueError(
                f"expected inputs {', '.join(map(_shown, self.inputs))}, as the network was quantized for, got "
                f"{', '.join(f'{tensor.dtype} of shape {tuple(tensor.shape)}' for tensor in tensors)}; quantize it for "
                "inputs like these"
            )
        for value, tensor in zip(self.inputs, tensors, strict=True):
            if TOKENS in value.shape:
                self._check_length(tensor.shape[value.shape.index(TOKENS)])
            if value.name in self.limits.ranges:
                _check_range(value.name, tensor, self.limits.ranges[value.name])
        return {value.name: tensor.detach().cpu().numpy() for value, tensor in zip(self.inputs, tensors, strict=True)}

    def _check_length(self, tokens: int) -> None:
        """Raise a ValueError for a number of tokens that the graph is not right for."""
        least, most = self.limits.lengths
        if tokens < least or (most is not None and tokens > most):
            upto = "or more" if most is None else f"to {most}"
            raise ValueError(f"expected {least} {upto} tokens, got {tokens}; cut or pad the texts")

    @cached_property
    def _session(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(self.graph, options, providers=["CPUExecutionProvider"])

    def __deepcopy__(self, memo: dict[int, Any]) -> "Backbone":
        """Return the backbone itself, which does not change, and may run in several threads at once."""
        return self


class Quantized(Calibrated):
    """Calibrated network with quantized stages and features. Created by `quantize`.

    It is used like the network in float32: its predictions, policies, guarantees and prediction sets are those of the
    quantized network. Classifiers and all behind them compute in float32.

    Args:
        calibrated: Calibrated network.
        exits: Its exits, or others for the same classifiers.
        backbones: Quantized stages.
        quantization: Entries of a manifest about the quantization.

    Attributes:
        backbones: Quantized stages.
        quantization: Entries of a manifest about the quantization.
    """

    def __init__(
        self,
        calibrated: Calibrated,
        exits: Sequence[CalibratedExit],
        backbones: Sequence[Backbone],
        quantization: dict[str, Any],
    ) -> None:
        super().__init__(calibrated.network, exits, calibrated.ensemble, calibrated.costs, calibrated.network_hash)
        self.backbones, self.quantization = tuple(backbones), quantization
        self._predictor = replace(self._predictor, served=_Served(self._predictor.served, self.backbones))
        graphs = [hashlib.sha256(backbone.graph).hexdigest() for backbone in self.backbones]
        self.digest = hashlib.sha256(" ".join([self.digest, *graphs]).encode()).hexdigest()

    def __repr__(self) -> str:
        """Show that the network is quantized, and what the repr of a calibrated network shows."""
        return super().__repr__().replace("Calibrated(", "Quantized(", 1)

    def check_format(self, format: Format) -> None:
        """Raise a ValueError unless the stages have this format and version of the operators."""
        if format.opset is None:
            raise ValueError(
                f"expected format='onnx' for a quantized network, whose stages are ONNX graphs, got {format.name!r}; "
                "omit it, or export the network in float32 that was quantized"
            )
        if format.opset != self.quantization["opset"]:
            raise ValueError(
                f"expected opset {self.quantization['opset']}, with which the network was quantized, got "
                f"{format.opset}; pass the same to suffice.quantize"
            )

    def update(self, loader: Loader) -> NoReturn:
        """Raise a TypeError, as posteriors are those of the features in float32."""
        raise TypeError("expected a network in float32 to update, got a quantized one; update that, and quantize it")

    def with_classes(self, network: nn.Module, *, generator: torch.Generator | None = None) -> NoReturn:
        """Raise a TypeError, as the network with more classes is not quantized."""
        raise TypeError("expected a network in float32 to widen, got a quantized one; widen that, and quantize it")

    def with_exits(self, exits: Sequence[CalibratedExit]) -> "Quantized":
        """Return the network with other calibrated exits for the same classifiers."""
        return Quantized(self, exits, self.backbones, self.quantization)

    def features(self, x: State) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield the number of each exit, its features φ (N, D) and its outputs (N, C)."""
        state = x
        for k in range(len(self.exits)):
            state, phi, outputs = self._predictor.served.output(k, state)
            yield k, phi, outputs

    def _with(self, exits: Sequence[CalibratedExit]) -> "Quantized":
        return self.with_exits(exits)


class _Served(Served):
    """Network whose stages and features are quantized; classifiers are those of the network."""

    def __init__(self, served: Served, backbones: Sequence[Backbone]) -> None:
        self.network, self.seal, self._backbones = served.network, served.seal, backbones

    def output(self, k: int, state: State, positions: Tensor | None = None) -> tuple[State, Tensor, Tensor]:
        """Run stage k and exit k, as `Served.output` does."""
        state = state if k else prepare(state, self.network)
        with full_precision(), self.seal.twin(k) as stage:
            state, phi = self._backbones[k](state)
            outputs = stage.exit.classifier(phi)
        check_finite(outputs, f"logits at exit {k}", positions=positions)
        return state, phi, outputs


def _fits(value: Value, tensor: Tensor) -> bool:
    """Return whether a tensor has the type of a value, and its shape where that is fixed."""
    return (
        str(tensor.dtype) == f"torch.{value.dtype}"
        and tensor.ndim == len(value.shape)
        and all(isinstance(size, str) or size == got for size, got in zip(value.shape, tensor.shape, strict=True))
    )


def _check_range(name: str, tensor: Tensor, limits: Sequence[int | None]) -> None:
    """Raise a ValueError for a number out of the range of an input, or of its column."""
    columns = tensor.unbind(1) if len(limits) > 1 else [tensor]
    for column, most in zip(columns, limits, strict=True):
        if most is not None and bool(((column < 0) | (column > most)).any()):
            raise ValueError(
                f"expected numbers from 0 to {most} in the input {name!r}, got {int(column.min())} to "
                f"{int(column.max())}; repair those examples"
            )


def _shown(value: Value) -> str:
    return f"{value.name!r} {value.dtype} ({', '.join(map(str, value.shape))})"
