"""Results of an experiment in one JSON file, written run by run, with everything needed to reproduce them.

The file is replaced atomically after each run (`suffice.storage.files`). A run that is in the file is not repeated, so
an interrupted experiment resumes, and several processes may measure different runs at the same time. The hash of a
trained network is recorded with its runs, so that all of them belong to the same network.
"""

import copy
import datetime
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from suffice._version import __version__
from suffice.storage import files, reading
from suffice.storage.fingerprint import fingerprint
from suffice.utils.text import printable

Results = dict[str, Any]
Subject = TypeVar("Subject")


class Ledger:
    """Runs of one experiment, recorded in a JSON file.

    Args:
        path: JSON file. If it exists, its runs are kept.
        command: Command line that measures the missing runs.
        settings: Settings of all runs, as JSON values.
        data: SHA-256 of the split of each data set, by name.

    Raises:
        ValueError: If the file was written with other settings or data.
    """

    def __init__(self, path: Path, command: str, settings: Mapping[str, Any], data: Mapping[str, str]) -> None:
        self.path = path
        self.command = command
        self.results: Results = json.loads(
            json.dumps({"command": command, "settings": settings, "data": data, "runs": {}})
        )
        self._read_file()

    def run(self, key: str, measure: Callable[[], Results]) -> Results:
        """Return the values of a run; measure and record it first, with its provenance, if it is missing."""
        if key not in self.results["runs"]:
            began = time.monotonic()
            values = measure()
            origin = {"command": self.command, **provenance(), "seconds": round(time.monotonic() - began, 1)}
            with self._exclusive():
                self.results["runs"].setdefault(key, {**origin, "measured": values})
        return dict(self.results["runs"][key]["measured"])

    def fill(
        self,
        name: str,
        measures: Mapping[str, Callable[[Subject], Results]],
        make: Callable[[], tuple[nn.Module, Subject]],
    ) -> None:
        """Measure the missing runs of one network, which is built only if a run is missing.

        Args:
            name: Name of the network.
            measures: Function of each run from the subject of the measurement to its values, by key.
            make: Function that returns the network and the subject.

        Raises:
            ValueError: If runs of this name were measured on another network.
        """
        missing = [key for key in measures if key not in self.results["runs"]]
        if not missing:
            return
        network, subject = make()
        self._bind(name, fingerprint(network), measures)
        for key in missing:
            self.run(key, partial(measures[key], subject))

    def _bind(self, name: str, network_hash: str, keys: Iterable[str]) -> None:
        """Record the hash of a network before its first run, or compare it with the recorded one.

        Runs from before hashes were recorded are accepted without a comparison.
        """
        with self._exclusive():
            networks = self.results.get("networks", {})
            if name not in networks and self.results["runs"].keys().isdisjoint(keys):
                self.results["networks"] = networks = {**networks, name: network_hash}
            if (recorded := networks.get(name, network_hash)) != network_hash:
                raise ValueError(
                    f"expected the network {name} that {self.path} was measured on, with the weight hash "
                    f"{recorded[:12]}…, got {network_hash[:12]}…; restore its weights, or write to another folder"
                )

    def _read_file(self) -> None:
        """Replace the results by those in the file, if it exists."""
        if os.path.lexists(self.path):
            recorded = read(self.path)
            check_match(self.path, recorded, self.results)
            self.results = recorded

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Lock the file, read it, run the block, which changes the results, and write them."""
        with files.lock_target(self.path) as place:
            self._read_file()
            before = copy.deepcopy(self.results)
            try:
                yield
                with place.atomic_file() as stream, place.explain_errors():
                    stream.write(_encode(self.results))
            except BaseException:
                self.results = before  # a run that was not written counts as missing
                raise


def check_match(path: Path, recorded: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise a ValueError unless the recorded settings and data equal the expected ones."""
    for name in ("settings", "data"):
        if recorded[name] != expected[name]:
            raise ValueError(
                f"expected {printable(path)} to have the {name} {expected[name]}, got {recorded[name]}; write to "
                "another folder, or move the existing results"
            )


def provenance() -> dict[str, Any]:
    """Return the date, the machine and the versions of a measurement that is made now."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} processors",
        "versions": {"suffice": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def write(path: Path, results: Results) -> None:
    """Write results as JSON, replacing the file atomically."""
    files.atomic_write(path, _encode(results))


def _encode(results: Results) -> bytes:
    reading.check_depth(results)
    return (json.dumps(results, indent=1) + "\n").encode()


def read(path: Path) -> Results:
    """Read the results of an experiment.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file holds anything else.
    """
    try:
        results: Results = reading.read_json(path)
        if not {"command", "settings", "data", "runs"} <= results.keys():
            raise ValueError(f"its keys are {sorted(results)}")
        if not all(isinstance(results[name], dict) for name in ("settings", "data", "runs")):
            raise ValueError("its settings, data or runs are not a mapping")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"expected results written by `suffice reproduce`, got {printable(path)}: {error}") from error
    return results


def measured(results: Results) -> dict[str, Results]:
    """Return the measured values of each run, by key."""
    return {key: run["measured"] for key, run in results["runs"].items()}


def commands(results: Results) -> list[str]:
    """Return the distinct commands of the runs; a run without a command has that of the file."""
    return list(dict.fromkeys(run.get("command", results["command"]) for run in results["runs"].values()))
