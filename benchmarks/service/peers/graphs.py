"""Graphs of a bundle in plain ONNX Runtime, as a user of another server would open them, with the threshold rule."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


class Whole:
    """Network of one graph.

    Args:
        folder: Bundle of one stage.
    """

    def __init__(self, folder: Path) -> None:
        self._session, self.shape = _session(folder, 0), shape(folder)

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return label and confidence (N,) of some inputs."""
        (log_probs,) = self._session.run(["log_probs"], {"input": x})
        return top(log_probs)


class Stages:
    """Stages of a network with exits, and the rule of its policy.

    Args:
        folder: Bundle with a policy that is not mixed.
    """

    def __init__(self, folder: Path) -> None:
        found = entries(folder)
        self.count, self.shape = len(found["stages"]), shape(folder)
        if found["policy"]["alternative"] is not None:
            raise ValueError("expected a policy that is not mixed; choose another budget")
        self._thresholds = [float(value) for value in found["policy"]["thresholds"]]
        self._inputs = [[tensor["name"] for tensor in stage["inputs"]] for stage in found["stages"]]
        self._sessions = [_session(folder, k) for k in range(self.count)]

    def __call__(self, k: int, carried: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[Any]]:
        """Run stage k.

        Returns:
            Which examples (N,) stop, label and confidence (N,) of all, and the inputs of the next stage.
        """
        feeds = dict(zip(self._inputs[k], carried, strict=True))
        if k == self.count - 1:
            (log_probs,) = self._sessions[k].run(["log_probs"], feeds)
            return np.ones(len(log_probs), dtype=bool), *top(log_probs), []
        later = [f"next.{name}" for name in self._inputs[k + 1]]
        log_probs, score, *carried = self._sessions[k].run(["log_probs", "score", *later], feeds)
        return score >= self._thresholds[k], *top(log_probs), carried


def top(log_probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return label and confidence (N,) of log-probabilities (N, C)."""
    label = log_probs.argmax(axis=1)
    return label, np.exp(np.take_along_axis(log_probs, label[:, None], axis=1)[:, 0])


def shape(folder: Path) -> tuple[int, ...]:
    """Return the shape of one example."""
    return tuple(entries(folder)["inputs"][0]["shape"][1:])


def entries(folder: Path) -> dict[str, Any]:
    """Return the manifest of a bundle."""
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


def _session(folder: Path, k: int) -> onnxruntime.InferenceSession:
    """Open the graph of stage k on one thread, with the options that the runtime has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(folder / f"stage-{k}.onnx", options, providers=["CPUExecutionProvider"])
