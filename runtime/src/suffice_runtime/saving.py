"""Write answers to a file: arrays (.npz), a table (.csv) or records (.json), whole or not at all."""

import csv
import io
import itertools
import json
import math
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suffice_runtime.answer import Answer
from suffice_runtime.bundle.entries import printable
from suffice_runtime.estimate import Estimate
from suffice_runtime.sets import LabelSets

Array = NDArray[Any]
Names = Sequence[str] | None

_FIELDS = {
    "classification": ("label", "confidence", "entropy", "aleatoric", "epistemic", "probs"),
    "multilabel": ("label", "confidence", "entropy", "aleatoric", "epistemic", "probs"),
    "regression": ("mean", "variance", "epistemic_variance", "noise_variance"),
}
"""Fields of a prediction that are written, by its kind."""

_BY_OUTPUT = (
    "output",
    "probs",
    "set",
    "set_low",
    "set_high",
    "mean",
    "variance",
    "epistemic_variance",
    "noise_variance",
)
"""Columns with one number for each class, label or output."""


def columns(answer: Answer) -> dict[str, Array]:
    """Return the fields of an answer by name, each with one row per example."""
    found: dict[str, Array] = {"exit": answer.exit}
    if answer.costs is not None:
        found["macs"] = answer.macs
    for name in _FIELDS[answer.prediction.kind]:
        found[name] = getattr(answer.prediction, name)
    if isinstance(answer.set, LabelSets):
        found["set"] = answer.set.members
    elif answer.set is not None:
        found["set_low"], found["set_high"] = answer.set.low, answer.set.high
    return {**found, "scores": answer.scores}


def estimate_columns(estimate: Estimate) -> dict[str, Array]:
    """Return the variation and the distance of an estimate, each with one row per example."""
    return {"variation": estimate.variation, "distance": estimate.distance}


def output_columns(estimate: Estimate) -> dict[str, Array]:
    """Return the output of the model in an estimate by name."""
    if isinstance(estimate.output, np.ndarray):
        return {"output": estimate.output}
    output = estimate.output
    places = output if isinstance(output, dict) else {str(i): array for i, array in enumerate(output)}
    return {f"output.{place}": array for place, array in places.items()}


def check_writable(file: Path, force: bool) -> None:
    """Raise an OSError if a file cannot be written, or is there already and must not be replaced."""
    if not file.parent.is_dir():
        raise FileNotFoundError(f"expected a folder at {printable(file.parent, 200)} for the output; create it")
    if file.is_dir():
        raise IsADirectoryError(f"expected a file to write, got the folder {printable(file, 200)}")
    if os.path.lexists(file) and not force:
        raise FileExistsError(f"expected no file at {printable(file, 200)}, found one; pass --force to replace it")


def write(file: Path, parts: Sequence[Mapping[str, Array]], names: Names = None, force: bool = False) -> None:
    """Write columns to a file, whose ending is one of `WRITERS`.

    Args:
        file: File to write.
        parts: Columns of batches by name, at least one batch.
        names: Names of the classes, labels or outputs, or None.
        force: Whether to replace a file that is there.

    Raises:
        OSError: If the file cannot be written, or is there already.
    """
    table = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    payload = WRITERS[file.suffix.lower()](table, names)
    check_writable(file, force)
    replace_file(file, payload)


def replace_file(file: Path, payload: bytes) -> None:
    """Write a file, whole or not at all, in place of one that is there.

    Raises:
        OSError: If the file cannot be written.
    """
    target = file.resolve()
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as stream:
            stream.write(payload)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _arrays(table: Mapping[str, Array], names: Names) -> bytes:
    """Return the bytes of a .npz with one array for each column."""
    stream, extra = io.BytesIO(), {} if names is None else {"class_names": np.array(names)}
    np.savez_compressed(stream, **table, **extra)  # type: ignore[arg-type]
    return stream.getvalue()


def _text(table: Mapping[str, Array], names: Names) -> bytes:
    """Return a table with a heading and one line per example; NaN is left empty."""
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(itertools.chain.from_iterable(_headings(name, array, names) for name, array in table.items()))
    flat = [array.reshape(len(array), math.prod(array.shape[1:])) for array in table.values()]
    for i in range(len(flat[0])):
        numbers = itertools.chain.from_iterable(array[i].tolist() for array in flat)
        writer.writerow("" if number != number else number for number in numbers)  # NaN differs from itself
    return stream.getvalue().encode()


def _headings(name: str, array: Array, names: Names) -> Iterator[str]:
    """Yield the headings of the columns of one array: its name, with the class or the place behind it."""
    if array.ndim == 1:
        yield name
        return
    named = names is not None and (name in _BY_OUTPUT or name == "label")
    places = names if named and names is not None else range(array.shape[1])
    yield from (f"{name}.{place}" for place in places)


def records(table: Mapping[str, Array]) -> list[dict[str, Any]]:
    """Return one record per example; NaN becomes None, infinities "inf" and "-inf", and sets the labels in them."""
    found = []
    for i in range(len(next(iter(table.values())))):
        record = {name: _jsonable(array[i : i + 1].tolist()[0]) for name, array in table.items()}
        if "set" in record:
            record["set"] = np.flatnonzero(table["set"][i]).tolist()
        found.append(record)
    return found


def _records(table: Mapping[str, Array], names: Names) -> bytes:
    """Return a JSON object with one record per example."""
    return json.dumps({"class_names": names, "answers": records(table)}, allow_nan=False, ensure_ascii=False).encode()


def _jsonable(value: Any) -> Any:
    """Return numbers as JSON can hold them."""
    if isinstance(value, list):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else str(value)
    return value


WRITERS: dict[str, Callable[[Mapping[str, Array], Names], bytes]] = {".npz": _arrays, ".csv": _text, ".json": _records}
"""Functions that return the bytes of a file, by its ending."""
