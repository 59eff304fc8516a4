"""Export of a run to a bundle, in 8 bits if asked, and a check of the bundle on data."""

import zipfile
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import suffice
from suffice import evaluation
from suffice.batches import Loader, read
from suffice.budget.policy import Policy
from suffice.calibration.calibrated import Calibrated
from suffice.deploy import checks, parity
from suffice.deploy.parity import Parity
from suffice.network import State, batch_size
from suffice.runs.datasets import Loaders
from suffice.runs.folder import Run
from suffice.storage import reading
from suffice.utils.nest import tree_map
from suffice.utils.progress import ProgressCallback
from suffice.utils.text import brief, printable
from suffice.utils.timing import interleaved

SCALES, TIMED = 512, 32
"""Least number of examples by which scales are chosen, and most examples of the batch that is timed."""
FLOAT32, INT8, REFITTED = "float32", "int8, temperatures of float32", "int8"
"""Names of networks in the table of measures."""


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


def read_example(file: Path) -> State:
    """Read an example of inputs from a file of NumPy, one array or several by name.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it holds anything else.
    """
    try:
        with reading.open_file(file) as stream:
            found = np.load(stream, allow_pickle=False)
            arrays = {"": found} if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    except (TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"expected arrays of numbers in {printable(file)}, as numpy.save and numpy.savez write them, got "
            f"{brief(str(error), 120)}"
        ) from error
    return tensors.get("", tensors)


def example(loader: Loader, run: Run) -> State:
    """Return the first inputs of a loader, at most as many as are timed."""
    first = next(read(loader, run.network)).inputs
    return tree_map(lambda leaf: leaf[:TIMED] if isinstance(leaf, Tensor) else leaf, first)


def write(run: Run, out: Path, x: State, opset: int, class_names: Sequence[str] = ()) -> None:
    """Export a run to a bundle.

    Args:
        run: Run.
        out: Folder of the bundle.
        x: Example of inputs.
        opset: Version of the ONNX operators.
        class_names: Names of the classes of the data, which are used if the run has none and they fit.
    """
    names = run.class_names
    if names is None and run.calibrated is not None and len(class_names) == checks.num_outputs(run.calibrated):
        names = tuple(class_names)
    choices: dict[str, Any] = {"opset": opset, "class_names": names, "preprocessing": run.preprocessing}
    if run.calibrated is not None:
        choices |= {"policy": run.policy, "estimator": run.estimator}
    suffice.export(run.fitted, out, example=x, **choices)


def write_checked(run: Run, out: Path, loaders: Loaders, int8: bool, opset: int, progress: ProgressCallback) -> Check:
    """Export a run to a bundle, in 8-bit integers if asked, and check it on data.

    Args:
        run: Run.
        out: Folder of the bundle.
        loaders: Data.
        int8: Quantize the network.
        opset: Version of the ONNX operators.
        progress: Callback of the check.

    Raises:
        ImportError: If suffice-runtime, or the extra "export", is not installed.
        ValueError: If the run cannot be exported or quantized, or the data are not those of the network.
    """
    parity.check_packages()
    originals = dict[str, Calibrated]()
    if int8:
        run, originals = quantize(run, loaders, opset)
    write(run, out, example(loaders.test, run), opset, loaders.class_names)
    return check(run, out, loaders, originals, progress)


def quantize(run: Run, loaders: Loaders, opset: int) -> tuple[Run, dict[str, Calibrated]]:
    """Quantize the network of a run, with temperatures fitted on validation data, and a policy for the same cost.

    Returns:
        The run with the quantized network, and by name the network in float32, and quantized with its temperatures.

    Raises:
        ValueError: If there are no exits, or the policy is more than thresholds for a cost in multiply-adds.
    """
    if run.calibrated is None:
        raise ValueError("expected calibrated exits for --int8, got an estimator alone; export it in float32")
    _check_policy(run.policy)
    scales = list(_first(loaders.validation, run.calibrated, SCALES))
    plain = suffice.quantize(run.calibrated, scales, opset=opset)
    fitted = suffice.quantize(run.calibrated, scales, refit=loaders.validation, opset=opset)
    policy = run.policy
    if policy is not None:
        policy = suffice.allocate(fitted, loaders.validation, policy.expected, "macs", policy.score)
    return replace(run, calibrated=fitted, policy=policy), {FLOAT32: run.calibrated, INT8: plain}


def require_parity(out: Path, checked: Check) -> None:
    """Raise a ValueError if a check found other answers than those of the network."""
    parts = ((checked.parity, 1e-4), (checked.estimates, 1e-3))
    for found, tolerance in parts:
        if found is not None and not found.holds(tolerance):
            raise ValueError(
                f"expected a bundle that agrees with its network to {tolerance:g}, got a difference of "
                f"{max(found.differences):.1e}, and {found.moved:,} examples at another exit with scores up to "
                f"{found.distance:.1e} from a threshold, in {printable(out)}; do not use it"
            )


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


def _check_policy(policy: Policy | None) -> None:
    """Raise a ValueError unless the policy is one that `allocate` can make again from its cost alone."""
    if policy is None:
        return
    made = {"a guarantee": policy.promise, "prediction sets": policy.sets, "measured times": policy.profile}
    more = [what for what, part in made.items() if part is not None]
    if more:
        raise ValueError(
            f"expected a policy for a cost in multiply-adds with --int8, got one with {more[0]}, which need data of "
            "their own; in Python, call suffice.quantize, make the policy for the quantized network, and suffice.export"
        )


def _first(loader: Loader, calibrated: Calibrated, count: int) -> Iterator[State]:
    """Yield the inputs of the first batches, with so many examples or more in all."""
    for batch in read(loader, calibrated.network):
        yield batch.inputs
        count -= batch.size
        if count <= 0:
            return


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
