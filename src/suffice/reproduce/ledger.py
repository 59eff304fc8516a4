"""Results of an experiment, kept run by run in one JSON file, with all that is needed to make them again.

The file is whole after each run (`suffice.storage.files`). A run that it holds is not made again, so that an experiment
that was killed goes on where it was, and several processes may measure different runs of it at once. Runs of one
trained network stay runs of one network: its hash is kept with them.
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
from suffice.storage.places import shown

Results = dict[str, Any]
Subject = TypeVar("Subject")


class Ledger:
    """The runs of one experiment.

    Args:
        path: the JSON file, gone on with if it is there.
        command: makes the runs that are measured now.
        settings: of all runs; JSON values.
        data: by name, SHA-256 of each data set's split.

    Raises:
        ValueError: if the file is of other settings or data.
    """

    def __init__(self, path: Path, command: str, settings: Mapping[str, Any], data: Mapping[str, str]) -> None:
        self.path = path
        self.command = command
        self.results: Results = json.loads(
            json.dumps({"command": command, "settings": settings, "data": data, "runs": {}})
        )
        self._reread()

    def run(self, key: str, measure: Callable[[], Results]) -> Results:
        """What a run measured: read if the file holds it, else measured and written with its circumstances."""
        if key not in self.results["runs"]:
            began = time.monotonic()
            measured = measure()
            about = {"command": self.command, **circumstances(), "seconds": round(time.monotonic() - began, 1)}
            with self._alone():
                self.results["runs"].setdefault(key, {**about, "measured": measured})
        return dict(self.results["runs"][key]["measured"])

    def fill(
        self,
        name: str,
        measures: Mapping[str, Callable[[Subject], Results]],
        make: Callable[[], tuple[nn.Module, Subject]],
    ) -> None:
        """Measure those runs of one network that the file lacks; if it lacks none, the network is not made.

        Args:
            name: of the network.
            measures: all runs of it, each from what is measured.
            make: the network, and what is measured.

        Raises:
            ValueError: if runs of that name were measured on another network.
        """
        missing = [key for key in measures if key not in self.results["runs"]]
        if not missing:
            return
        network, subject = make()
        self._bind(name, fingerprint(network), measures)
        for key in missing:
            self.run(key, partial(measures[key], subject))

    def _bind(self, name: str, hashed: str, keys: Iterable[str]) -> None:
        """Note the hash of a network before its first run; runs of before it was noted may be of any."""
        with self._alone():
            networks = self.results.get("networks", {})
            if name not in networks and self.results["runs"].keys().isdisjoint(keys):
                self.results["networks"] = networks = {**networks, name: hashed}
            if (known := networks.get(name, hashed)) != hashed:
                raise ValueError(
                    f"expected the network {name} that {self.path} was measured on, whose weights have the hash "
                    f"{known[:12]}…, got {hashed[:12]}…; put back the weights of then, or write to another folder"
                )

    def _reread(self) -> None:
        """Take what the file holds by now, if it is there."""
        if os.path.lexists(self.path):
            known = read(self.path)
            same(self.path, known, self.results)
            self.results = known

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Change the results as the file holds them by now, and write them, while other processes wait."""
        with files.alone(self.path) as place:
            self._reread()
            before = copy.deepcopy(self.results)
            try:
                yield
                with place.file() as stream, place.said():
                    stream.write(_written(self.results))
            except BaseException:
                self.results = before  # so that what was not written counts as missing
                raise


def same(path: Path, known: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise a ValueError unless what a file holds is of the settings and the data that are asked for."""
    for name in ("settings", "data"):
        if known[name] != asked[name]:
            raise ValueError(
                f"expected {shown(path)} to be of {name} {asked[name]}, got {known[name]}; write to another folder, or "
                "take it away"
            )


def circumstances() -> dict[str, Any]:
    """When, on what and with which versions something is measured."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} processors",
        "versions": {"suffice": __version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def write(path: Path, results: Results) -> None:
    """Write results as JSON: the old file or the new one is there, never a part."""
    files.write(path, _written(results))


def _written(results: Results) -> bytes:
    reading.check_depth(results)
    return (json.dumps(results, indent=1) + "\n").encode()


def read(path: Path) -> Results:
    """Results as they were written.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such thing.
    """
    try:
        results: Results = reading.read_json(path)
        if not {"command", "settings", "data", "runs"} <= results.keys():
            raise ValueError(f"its keys are {sorted(results)}")
        if not all(isinstance(results[name], dict) for name in ("settings", "data", "runs")):
            raise ValueError("its settings, data or runs are no mapping")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"expected results written by `suffice reproduce`, got {shown(path)}: {error}") from error
    return results


def measured(results: Results) -> dict[str, Results]:
    """What each run measured, by its key."""
    return {key: run["measured"] for key, run in results["runs"].items()}


def commands(results: Results) -> list[str]:
    """Those that the runs were made by; of runs that do not say, the one that began the file."""
    return list(dict.fromkeys(run.get("command", results["command"]) for run in results["runs"].values()))
