"""Files of inputs: arrays as NumPy writes them, or texts, one in each line."""

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suffice_runtime.bundle.entries import printable
from suffice_runtime.runner import Runner

Array = NDArray[Any]
Inputs = Array | Mapping[str, Array] | Sequence[str]
"""An array, arrays by name, or texts."""

TEXTS = ".txt"
INPUTS = (".npy", ".npz", TEXTS)
"""Endings of files of inputs."""


def read(file: Path) -> Inputs:
    """Read the array of a .npy, those of a .npz by name, or the lines of a .txt in UTF-8.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it holds anything else.
    """
    try:
        return _lines(file) if file.suffix.lower() == TEXTS else _arrays(file)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"expected a file of inputs, found none at {printable(file, 200)}") from error


def count(x: Inputs) -> int:
    """Return the number of examples; 0 if there are none, or the shapes are refused by name."""
    if not isinstance(x, (np.ndarray, Mapping)):
        return len(x)
    arrays = {"": x} if isinstance(x, np.ndarray) else x
    rows = {len(array) if array.ndim else 0 for array in arrays.values()}
    return max(rows) if len(rows) == 1 else 0


def batches(runner: Runner, x: Inputs, size: int) -> Iterator[Array | Mapping[str, Array]]:
    """Yield the examples as arrays in batches.

    Raises:
        ValueError: If a text cannot be encoded; the message names its line, counted from 0.
    """
    for start in range(0, count(x), size):
        part = slice(start, start + size)
        if isinstance(x, Mapping):
            yield {name: array[part] for name, array in x.items()}
        else:
            yield x[part] if isinstance(x, np.ndarray) else runner._tokenizer.encode(x[part], start)


def _lines(file: Path) -> list[str]:
    try:
        content = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"expected texts in UTF-8 in {printable(file, 200)}, got another encoding") from error
    lines = [line.removesuffix("\r") for line in content.split("\n")]
    return lines if lines[-1] else lines[:-1]


def _arrays(file: Path) -> Array | Mapping[str, Array]:
    try:
        with file.open("rb") as stream:
            found = np.load(stream, allow_pickle=False)
            return found if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = printable(str(error).partition("\n")[0])
        raise ValueError(
            f"expected arrays of numbers as numpy.save and numpy.savez write them in {printable(file, 200)}, got "
            f"something else: {reason}"
        ) from error
