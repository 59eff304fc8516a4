"""A classifier in NumPy for tests of what is watched.

An example is a row [y_0, y_1, y_2, s_0, s_1]: exit k predicts the label y_k, and its score is s_k. The last graph
raises an error for y_2 = FAILS, and returns NaN for y_2 = NAN.
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np

import fake_network
from fake_network import EXITS, POLICY
from suffice_runtime.bundle.graphs import GraphFile, Tensor
from suffice_runtime.bundle.sessions import Result
from suffice_runtime.policy import Promise
from suffice_runtime.prediction import Prediction
from suffice_runtime.running.network import Network

CLASSES = 4
FAILS, NAN = -1.0, -2.0

PROMISE = Promise("agreement", 0.1, 0.95)
PROMISED = replace(POLICY, budget=np.nan, promise=PROMISE)
SAFER = replace(PROMISED, thresholds=np.array([np.inf, 0.5]), expected=2.7, shares=np.array([0.0, 0.3, 0.7]))


class Stage:
    def __init__(self, k):
        self.k = k

    def __call__(self, arrays):
        (x,) = arrays
        labels, last = x[:, self.k], self.k == EXITS - 1
        if (labels == FAILS).any():
            raise ArithmeticError("a graph that fails for this example")
        log_probs = np.where(np.arange(CLASSES) == labels[:, None], np.log(0.7), np.log(0.1)).astype(np.float32)
        log_probs[labels == NAN] = np.nan
        prediction = Prediction(log_probs, np.full(len(x), 0.5, np.float32))
        return Result(prediction, None if last else x[:, EXITS + self.k].astype(np.float64), [] if last else [x])


def network(policy=PROMISED, policies=(SAFER,)):
    tensor = Tensor("x", np.dtype("float32"), ("N", 2 * EXITS - 1))
    outputs = (
        Tensor("log_probs", np.dtype("float32"), ("N", CLASSES)),
        Tensor("aleatoric", np.dtype("float32"), ("N",)),
    )
    stages = tuple(GraphFile(f"stage-{k}.onnx", "", 0, (tensor,), outputs) for k in range(EXITS))
    manifest = replace(
        fake_network.network(policy, policies).manifest,
        kind=Prediction, likelihood="classification", inputs=(tensor,), stages=stages,
    )  # fmt: skip
    return Network(manifest, [Stage(k) for k in range(EXITS)])


def as_runner(network):
    """Return what an engine needs of a runner."""
    return SimpleNamespace(manifest=network.manifest, _network=network)


def stopping_at(exits, wrong=False):
    """Return examples that POLICY stops at some exits, whose labels there differ from that of the last exit or not."""
    exits = np.asarray(exits)
    last = np.ones(len(exits))
    early = np.where(wrong, 2.0, last)
    scores = [exits == k for k in range(EXITS - 1)]
    return np.stack([early, early, last, *scores], axis=1).astype(np.float32)


def stream(n, loss, seed=0, shares=(0.4, 0.3, 0.3)):
    """Return n examples that stop at exits with probabilities `shares`, whose loss has a mean of `loss`."""
    generator = np.random.default_rng(seed)
    exits = generator.choice(EXITS, size=n, p=shares)
    return stopping_at(exits, generator.random(n) < loss / (1 - shares[-1]))
