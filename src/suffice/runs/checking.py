"""Check of a bundle on data: agreement with its network, quality, and the time of a batch."""

from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

import suffice
from suffice import evaluation
from suffice.batches import Loader, read
from suffice.budget.policy import Policy
from suffice.calibration.calibrated import Calibrated
from suffice.deploy import parity
from suffice.deploy.parity import Parity
from suffice.network import State, batch_size
from suffice.runs.datasets import Loaders
from suffice.runs.folder import Run
from suffice.utils.nest import tree_map
from suffice.utils.progress import ProgressCallback
from suffice.utils.timing import interleaved

FLOAT32, INT8, REFITTED = "float32", "int8, temperatures of float32", "int8"
"""Names of networks in the table of measures."""
TIMED = 32
"""Most examples of the batch that is timed."""


@dataclass(frozen=True)
class Check:
    """Result of a check of a bundle.

    Attributes:
        parity: Differences between the bundle and the network that it was exported from; None without exits.
        estimates: Differences between the bundle and the estimator; None without one.
        measures: Measures at the last exit by name, for each network in the order of their making.
        milliseconds: Median time of a batch, by what computes it.
        batch: Number of examples in that batch.
    """

    parity: Parity | None
    estimates: Parity | None
    measures: dict[str, dict[str, float]]
    milliseconds: dict[str, float]
    batch: int


def check(
    run: Run, folder: Path, loaders: Loaders, originals: dict[str, Calibrated], progress: ProgressCallback
) -> Check:
    """Compare a bundle with the network that it was exported from, measure it on test data, and time it.

    Args:
        run: Run that was exported.
        folder: Folder of the bundle.
        loaders: Data.
        originals: Other networks to measure, by name; not those of the bundle.
        progress: Callback of the work.

    Raises:
        ImportError: If suffice-runtime is not installed.
        ValueError: If the data are not those of the network.
    """
    test, calibrated, estimates = loaders.test, run.calibrated, None
    if run.estimator is not None:
        batches = _reported(test, "compare estimates", progress)
        estimates = parity.compare_estimates(run.estimator, folder, batches)
    if calibrated is None:
        return Check(None, estimates, {}, {}, 0)
    found = parity.compare(calibrated, folder, _reported(test, "compare predictions", progress), run.policy)
    networks = {**originals, (REFITTED if originals else FLOAT32): calibrated}
    measures = {}
    for name, network in networks.items():
        outcome = evaluation.predict(network, _reported(test, f"measure {name}", progress))
        measures[name] = evaluation.per_exit(outcome)[-1]
    x = example(test, run)
    return Check(found, estimates, measures, _milliseconds(calibrated, run.policy, folder, x), batch_size(x))


def require_parity(checked: Check) -> None:
    """Raise a ValueError if a check found other answers than those of the network."""
    parts = ((checked.parity, 1e-4), (checked.estimates, 1e-3))
    for found, tolerance in parts:
        if found is not None and not found.holds(tolerance):
            raise ValueError(
                f"expected a bundle that agrees with its network to {tolerance:g}, got a difference of "
                f"{max(found.differences):.1e}, and {found.moved:,} examples at another exit with scores up to "
                f"{found.distance:.1e} from a threshold; nothing was written: export without --check to look at it"
            )


def example(loader: Loader, run: Run) -> State:
    """Return the first inputs of a loader, at most as many as are timed."""
    first = next(read(loader, run.network)).inputs
    return tree_map(lambda leaf: leaf[:TIMED] if isinstance(leaf, Tensor) else leaf, first)


def _reported(loader: Loader, what: str, progress: ProgressCallback) -> Iterator[Any]:
    """Yield the batches of a loader, and report the progress."""
    total = len(loader) if isinstance(loader, Sized) else 0
    batches: Iterable[Any] = loader
    for done, batch in enumerate(batches, start=1):
        yield batch
        progress(what, done, total)


def _milliseconds(calibrated: Calibrated, policy: Policy | None, folder: Path, x: State) -> dict[str, float]:
    """Return the median time of a batch by the network and by the bundle."""
    from suffice_runtime import Runner

    runner, arrays = Runner(folder), parity.arrays(x)
    ways: dict[str, Any] = {
        "every exit, suffice": lambda: calibrated(x),
        "every exit, bundle": lambda: runner.predict(arrays),
    }
    if policy is not None:
        ways |= {
            "policy, suffice": lambda: suffice.run(calibrated, policy, x),
            "policy, bundle": lambda: runner.run(arrays),
        }
    return interleaved(ways)
