"""Export of a run to a bundle, in 8 bits if asked."""

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import suffice
from suffice.batches import Loader, read
from suffice.budget.policy import Policy
from suffice.calibration.calibrated import Calibrated
from suffice.deploy import checks, parity
from suffice.deploy.bundle import manifest
from suffice.network import State
from suffice.runs import checking
from suffice.runs.datasets import Loaders
from suffice.runs.folder import Run
from suffice.storage import files, reading
from suffice.utils.progress import ProgressCallback
from suffice.utils.text import brief, printable

SCALES = 512
"""Least number of examples by which scales are chosen."""


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


def write_checked(
    run: Run, out: Path, loaders: Loaders, int8: bool, opset: int, progress: ProgressCallback
) -> checking.Check:
    """Export a run to a bundle, in 8-bit integers if asked, which is only written if it passes a check on data.

    Args:
        run: Run.
        out: Folder of the bundle.
        loaders: Data.
        int8: Quantize the network.
        opset: Version of the ONNX operators.
        progress: Callback of the check.

    Raises:
        ImportError: If suffice-runtime, or the extra "export", is not installed.
        ValueError: If the run cannot be exported or quantized, the data are not those of the network, or the bundle
            gives other answers than the network.
        FileExistsError: If something is there that is not a bundle.
    """
    parity.check_packages()
    manifest.check_replaceable(out)
    originals = dict[str, Calibrated]()
    if int8:
        run, originals = quantize(run, loaders, opset)
    with files.atomic_folder(out, manifest.owned_paths) as folder:
        write(run, folder, checking.example(loaders.test, run), opset, loaders.class_names)
        found = checking.check(run, folder, loaders, originals, progress)
        checking.require_parity(found)
    return found


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
    return replace(run, calibrated=fitted, policy=policy), {checking.FLOAT32: run.calibrated, checking.INT8: plain}


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
