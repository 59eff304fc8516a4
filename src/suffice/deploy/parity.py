"""Parity of a bundle with the network that it was exported from, on examples."""

import operator
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suffice.batches import Loader, read
from suffice.budget.policy import Policy
from suffice.budget.running.run import run
from suffice.calibration.calibrated import Calibrated
from suffice.deploy.bundle.manifest import FOLDER, policy_entries
from suffice.deploy.graphs.values import input_names, tensors_of
from suffice.network import State
from suffice.storage import manifests
from suffice.variation.estimator import VariationEstimator

Array = NDArray[Any]


@dataclass(frozen=True)
class Parity:
    """Differences between a bundle and its network.

    Attributes:
        examples: Number of examples N.
        differences: Largest difference at each exit (K): of a probability; for predicted numbers, of a mean or of its
            standard deviation, in units of that deviation. For an estimator one number: of an estimated variation, in
            units of the mean estimate of its batch.
        moved: Number of examples that stop at another exit under the policy.
        distance: Largest distance of the scores of these examples from the threshold, at the earlier of both exits.
    """

    examples: int
    differences: tuple[float, ...]
    moved: int
    distance: float

    def holds(self, tolerance: float = 1e-4) -> bool:
        """Return whether predictions differ by at most a tolerance, and exits only where scores are so close."""
        return all(difference <= tolerance for difference in (*self.differences, self.distance))

    def __add__(self, other: "Parity") -> "Parity":
        """Return the parity on the examples of both."""
        differences = np.maximum(self.differences, other.differences)  # NaN stays NaN
        distance = float(np.maximum(self.distance, other.distance))
        return Parity(self.examples + other.examples, tuple(differences.tolist()), self.moved + other.moved, distance)


def compare(
    calibrated: Calibrated, folder: str | os.PathLike[str], loader: Loader, policy: Policy | None = None
) -> Parity:
    """Compare the predictions of a bundle at every exit, and the exits under its policy, with those of its network.

    Needs the package suffice-runtime.

    Args:
        calibrated: Network that was exported.
        folder: Folder of the bundle.
        loader: Batches of inputs, alone or with labels, which are not used.
        policy: Policy that was exported with it; None to compare predictions alone.

    Raises:
        ImportError: If suffice-runtime is not installed.
        ValueError: If the loader is empty, an input is not finite, or the bundle or the policy is another network's.

    Example:
        >>> import tempfile, torch, suffice
        >>> from suffice.deploy import parity
        >>> network, x = suffice.models.convnet(num_classes=3, widths=(4, 8)), torch.rand(200, 1, 8, 8)
        >>> loader = [(x, torch.arange(200) % 3)]
        >>> calibrated = suffice.calibrate(network, None, loader, structure=None, temperature=False)
        >>> policy = suffice.allocate(calibrated, [x], budget=0.8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     suffice.export(calibrated, f"{folder}/bundle", policy=policy, example=x)
        ...     parity.compare(calibrated, f"{folder}/bundle", loader, policy).holds()
        True
    """
    runner = _runner(folder)
    _check_source(calibrated, runner, policy)
    return _total([_compare(calibrated, runner, batch.inputs, policy) for batch in read(loader, calibrated.network)])


def compare_estimates(estimator: VariationEstimator, folder: str | os.PathLike[str], loader: Loader) -> Parity:
    """Compare the estimated variations of a bundle with those of its estimator.

    Needs the package suffice-runtime.

    Args:
        estimator: Estimator that was exported.
        folder: Folder of the bundle.
        loader: Batches of inputs, alone or with labels, which are not used.

    Raises:
        ImportError: If suffice-runtime is not installed.
        ValueError: If the loader is empty, an input is not finite, or the bundle has no estimator or that of another
            network.
    """
    runner = _runner(folder)
    entries = manifests.read_manifest(Path(folder), FOLDER).get("estimator")
    if entries is None or entries.get("network") != estimator.network_hash:
        got = "none" if entries is None else f"one of {str(entries.get('network'))[:12]}…"
        raise ValueError(
            f"expected a bundle with an estimator of the model {estimator.network_hash[:12]}…, got {got}; export it "
            "again"
        )
    return _total([_compare_estimates(estimator, runner, batch.inputs) for batch in read(loader, estimator.model)])


def check_packages() -> None:
    """Raise an ImportError unless suffice-runtime is installed."""
    if find_spec("suffice_runtime") is None:
        raise ImportError("expected the package suffice-runtime, found none; pip install ./runtime of this repository")


def _runner(folder: str | os.PathLike[str]) -> Any:
    """Return a runner of a bundle."""
    check_packages()
    from suffice_runtime import Runner

    return Runner(folder)


def _total(parts: Sequence[Parity]) -> Parity:
    """Return the parity on the examples of all parts."""
    return reduce(operator.add, parts)


def arrays(x: State) -> dict[str, Array]:
    """Return the tensors of inputs as a bundle takes them: arrays by name."""
    return {name: leaf.cpu().numpy() for name, leaf in zip(input_names(x), tensors_of(x), strict=True)}


def _check_source(calibrated: Calibrated, runner: Any, policy: Policy | None) -> None:
    """Raise a ValueError unless a bundle is that of a calibrated network, with a policy if one is given."""
    digest = runner.manifest.hashes.get("calibrated")
    if digest != calibrated.digest:
        raise ValueError(
            f"expected a bundle of this calibrated network, {calibrated.digest[:12]}…, got one of {str(digest)[:12]}…; "
            "export it again"
        )
    if policy is not None and runner.manifest.hashes.get("policy") != manifests.digest(policy_entries(policy)):
        raise ValueError("expected the policy that the bundle was exported with, got another; export it again")


def _compare(calibrated: Calibrated, runner: Any, x: State, policy: Policy | None) -> Parity:
    """Return the parity on a batch."""
    inputs = arrays(x)
    pairs = zip(calibrated(x), runner.predict(inputs), strict=True)
    differences = tuple(_difference(ours, theirs) for ours, theirs in pairs)
    rows = len(next(iter(inputs.values())))
    if policy is None:
        return Parity(rows, differences, 0, 0.0)
    ours, theirs = run(calibrated, policy, x), runner.run(inputs)
    moved = np.flatnonzero(ours.exit.cpu().numpy() != theirs.exit)
    distances = [_distance(ours.scores.cpu().numpy()[i], theirs.scores[i], policy) for i in moved]
    return Parity(rows, differences, len(moved), max(distances, default=0.0))


def _compare_estimates(estimator: VariationEstimator, runner: Any, x: State) -> Parity:
    """Return the parity on a batch."""
    inputs = arrays(x)
    ours = estimator.estimate(x).variation.double().cpu().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of inputs that are outside, which are compared like others
        theirs = runner.estimate(inputs).variation
    return Parity(len(ours), (_largest((theirs - ours) / ours.mean()),), 0, 0.0)


def _difference(ours: Any, theirs: Any) -> float:
    """Return the largest difference of two predictions."""
    if hasattr(theirs, "probs"):
        return _largest(ours.probs.cpu().numpy() - theirs.probs)
    std = ours.variance.double().sqrt().cpu().numpy()
    means, deviations = (ours.mean.cpu().numpy() - theirs.mean) / std, np.sqrt(theirs.variance) / std - 1
    return _largest(np.concatenate([means.ravel(), deviations.ravel()]))


def _distance(ours: Array, theirs: Array, policy: Policy) -> float:
    """Return how far the scores (K − 1) of an example are from the threshold where only one of them stopped."""
    stopped = min(int((~np.isnan(scores)).sum()) for scores in (ours, theirs)) - 1  # scores behind the exit are NaN
    options: Iterable[Any] = (policy.thresholds, *(() if policy.alternative is None else (policy.alternative,)))
    return min(
        abs(float(scores[stopped]) - float(thresholds[stopped])) for scores in (ours, theirs) for thresholds in options
    )


def _largest(differences: Array) -> float:
    return float(np.abs(differences).max(initial=0.0))
