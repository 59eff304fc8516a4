"""Tiny calibrated networks, their bundles, and a loop that runs the graphs of a bundle with ONNX Runtime alone."""

import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from filelock import FileLock
from torch import Tensor

import suffice
from suffice.calibration.calibrated import Calibrated
from suffice.deploy import checks
from suffice.network import State, batch_size
from suffice.prediction import AnyPrediction
from suffice.utils.nest import dotted_leaves
from tests import builders
from tests.tolerances import gamma

CLASSES, WIDTHS, ROWS = 4, (5, 6), 7
"""Sizes of the tiny network, and the number of examples that are compared, which is not that of the example."""

NEXT = "next."


class Setting(NamedTuple):
    """Choices of a calibration; one value of each is in every bundle."""

    likelihood: str
    structure: str | None
    link: str
    ensemble: str | bool

    def __str__(self) -> str:
        return "-".join(map(str, self))

    @property
    def is_possible(self) -> bool:
        """False for what `calibrate` refuses, and for links that do not use a posterior that is not there."""
        if self.structure is None:
            return self.link == "plugin" and (self.ensemble != "product" or self.is_discrete)
        exact = self.likelihood != "regression" or self.structure == "kronecker"
        return exact and (self.ensemble != "product" or self.is_discrete)

    @property
    def is_discrete(self) -> bool:
        """True if the predictions are probabilities."""
        return self.likelihood not in ("regression", "heteroscedastic")


CHOICES = (
    ("classification", "binary", "multilabel", "regression", "heteroscedastic"),
    ("kronecker", "full", "diagonal", "lowrank", "blocks", None),
    ("sampled", "meanfield", "probit", "plugin"),
    ("average", "product", False),
)
"""Values of each choice, in the order of `Setting`."""

NESTED = Setting("classification", "diagonal", "sampled", "average")
"""Setting of a network with three exits, whose state is a nest."""

FEW = {
    Setting("classification", "kronecker", "sampled", "product"): "confidence",
    Setting("classification", "lowrank", "probit", "average"): "aleatoric",
    Setting("binary", "full", "meanfield", "average"): "entropy",
    Setting("multilabel", "blocks", "sampled", "product"): "margin",
    Setting("regression", "kronecker", "probit", "average"): "epistemic",
    Setting("heteroscedastic", None, "plugin", False): "variance",
}
"""Settings in which, with `NESTED`, every value of every choice appears, and the score of each one's policy."""


def require_exporter() -> None:
    """Skip a test where nothing can be exported: without the extra, or with an old version of torch."""
    try:
        checks.packages(*checks.ONNX)
    except ImportError as error:
        pytest.skip(str(error))


def shared_folder(factory: pytest.TempPathFactory, name: str, write: Callable[[Path], None]) -> Path:
    """Return a folder that one process of a test run writes for all of them, as an export takes seconds."""
    root = factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / name
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            write(folder)
    return folder


def pairs(setting: Setting) -> set[tuple[int, Any, int, Any]]:
    """Return the pairs of values of two choices that a setting contains."""
    return {(i, setting[i], j, setting[j]) for i, j in itertools.combinations(range(len(setting)), 2)}


def rest() -> list[Setting]:
    """Return further settings, so that with `FEW` every possible pair of values appears."""
    possible = [setting for setting in itertools.starmap(Setting, itertools.product(*CHOICES)) if setting.is_possible]
    missing = set().union(*map(pairs, possible)).difference(*map(pairs, [*FEW, NESTED]))
    chosen = []
    while missing:
        chosen.append(max(possible, key=lambda setting: len(pairs(setting) & missing)))
        missing -= pairs(chosen[-1])
    return chosen


def targets(likelihood: str, outputs: Tensor, seed: int = 5) -> Tensor:
    """Draw targets from the distributions that outputs (N, C) stand for, so that temperatures are about 1."""
    generator = torch.Generator().manual_seed(seed)
    outputs = outputs.detach()
    match likelihood:
        case "classification":
            return builders.sampled_labels(outputs, seed=seed)
        case "binary":
            return outputs.sigmoid().bernoulli(generator=generator).long()[:, 0]
        case "multilabel":
            return outputs.sigmoid().bernoulli(generator=generator).long()
    means = outputs if likelihood == "regression" else outputs[:, : outputs.shape[1] // 2]
    return means + torch.randn(means.shape, generator=generator)


def labeled(calibrated: Calibrated, count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Return a loader of one labeled batch of the tiny network."""
    x = builders.inputs(count, seed=seed)
    return [(x, targets(calibrated.likelihood.name, calibrated.network(x)[-1], seed))]


@cache
def calibrated_for(setting: Setting) -> Calibrated:
    """Return the tiny network, calibrated; with three exits and a nested state for `NESTED`."""
    classes = 1 if setting.likelihood == "binary" else CLASSES
    widths = (*WIDTHS, 4) if setting is NESTED else WIDTHS
    network = builders.network(widths, classes=classes, nested=setting is NESTED)
    x = builders.inputs(80)
    y = targets(setting.likelihood, network(x)[-1])
    return suffice.calibrate(
        network,
        builders.batched(x[:40], y[:40], 20),
        builders.batched(x[40:], y[40:], 20),
        **setting._asdict(),
        samples=8,
        generator=torch.Generator().manual_seed(1),
    )


@cache
def policy_for(setting: Setting, score: str) -> suffice.Policy:
    """Return a policy of the tiny network with a score."""
    return suffice.allocate(calibrated_for(setting), [builders.inputs(200, seed=1)], 0.8, score=score)


@dataclass(frozen=True)
class Bundle:
    """Exported network, with what it was made of."""

    folder: Path
    calibrated: Calibrated
    policy: suffice.Policy | None = None

    @cached_property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.folder / "manifest.json").read_text())

    @cached_property
    def sessions(self) -> list[Any]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        paths = [str(self.folder / stage["file"]) for stage in self.manifest["stages"]]
        return [onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in paths]

    def passes(
        self, x: State, keep: Callable[[int, dict[str, np.ndarray]], np.ndarray] | None = None
    ) -> Iterator[dict]:
        """Run the graphs one after the other, and yield the outputs of each by name.

        Args:
            x: Inputs.
            keep: Function from the number of an exit and its outputs to the rows that go on; None for all.
        """
        fed = {name or "input": leaf.numpy() for name, leaf in dotted_leaves(x) if isinstance(leaf, Tensor)}
        for k, session in enumerate(self.sessions):
            results = dict(zip([out.name for out in session.get_outputs()], session.run(None, fed), strict=True))
            yield results
            rows = slice(None) if keep is None else keep(k, results)
            fed = {name.removeprefix(NEXT): values[rows] for name, values in results.items() if name.startswith(NEXT)}

    def exits(self, x: State, thresholds: Tensor) -> tuple[np.ndarray, list[dict[str, np.ndarray]]]:
        """Run the graphs with thresholds (K − 1,) for the policy's score; finished examples leave the batch.

        Returns:
            The exit (N,) of each example, and the outputs of each exit for those that reach it.
        """
        count, last = batch_size(x), len(self.sessions) - 1
        exit_, going = np.full(count, last), np.arange(count)

        def keep(k: int, results: dict[str, np.ndarray]) -> np.ndarray:
            nonlocal going
            if k == last:
                return np.arange(0)
            stays = results["score"] < float(thresholds[k])
            exit_[going[~stays]] = k
            going = going[stays]
            return stays

        return exit_, list(self.passes(x, keep))


def fields(results: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Return the outputs of a graph that make up a prediction."""
    named = {name: values for name, values in results.items() if not name.startswith(NEXT) and name != "score"}
    return {name: torch.from_numpy(values) for name, values in named.items()}


def tolerance(calibrated: Calibrated, x: State) -> float:
    """Return a bound on the difference between two computations of a log-probability, or of a mean, in float32.

    Both round sums of at most `TERMS` products on the way from φ to each logit and to its offsets, whose sums of
    absolute values are at most `greatest`, so that they differ by at most 2γ times that. Earlier roundings change φ by
    fewer terms, and the weights of a classifier pass them on as part of the same sums; hence 4γ. A log-softmax changes
    by at most twice the greatest change of a logit, and averages over samples and exits change by no more; hence 8γ.
    """
    greatest, state = 1.0, x
    with torch.no_grad():
        for k, exit_ in enumerate(calibrated.exits):
            state, phi = calibrated.network.advance(k, state)
            classifier = calibrated.network.exit(k).classifier
            sums = phi.abs() @ classifier.weight.abs().T + (0.0 if classifier.bias is None else classifier.bias.abs())
            size = float(sums.max())
            if exit_.posterior is not None:
                deviation = exit_.posterior.variance(exit_.spectrum(phi)).sqrt()
                size += 4 * float(deviation.max())  # the samples are within 4 deviations
            greatest = max(greatest, size / float(exit_.temperature))
    return 8 * gamma(TERMS, torch.float32) * greatest


TERMS = 32
"""Bound on the terms of each sum: those of widths, classes, samples and exits are fewer, with those of tanh and exp."""


def field_tolerance(name: str, wanted: Tensor, log_prob: float) -> float:
    """Return a bound on the difference of a field of predictions from that of log-probabilities or means.

    The derivative of an entropy with respect to the log-probabilities is at most 1 + log C in the greatest norm. The
    variance V between means changes by at most 2√V ≤ 1 + V times as much as they do; others round relative to V.
    """
    size = float(wanted.abs().max())
    if name.endswith("aleatoric"):
        return log_prob * (1 + math.log(CLASSES))
    return log_prob * (1 if name == "log_probs" else max(1.0, size) if name == "mean" else 2 * (1 + size))


def score_tolerance(score: str, prediction: AnyPrediction, log_prob: float) -> Tensor:
    """Return a bound (N,) on the difference of scores from that of log-probabilities or means.

    Numbers of exits are exact where labels agree. Other scores of classes or labels are sums of at most C entropies or
    differences of two log-probabilities. Those of a regression are means of logarithms of variances V, whose relative
    change is at most 2/√V times that of the mean, and as much as that of a logit where V is an exponential.
    """
    if score == "patience":
        return torch.zeros(len(prediction))
    if prediction.kind != "regression":
        return torch.full((len(prediction),), log_prob * 2 * CLASSES * (1 + math.log(CLASSES)))
    values = prediction.epistemic_variance if score == "epistemic" else prediction.variance
    return 2 * log_prob * (1 + values.amin(dim=1).rsqrt())
