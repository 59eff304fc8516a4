"""Results of an experiment, kept run by run in one JSON file, with all that is needed to make them again.

The file is whole after each run. A run that it holds is not made again, so that an experiment that was killed
goes on where it was.
"""

import datetime
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

import suffice
from suffice.files import write_synced

Results = dict[str, Any]


class Ledger:
    """The runs of one experiment.

    Args:
        path: the JSON file, gone on with if it is there.
        command: makes the file again.
        settings: of all runs; JSON values.
        data: by name, SHA-256 of each data set's split.

    Raises:
        ValueError: if the file is of other settings or data.
    """

    def __init__(self, path: Path, command: str, settings: Mapping[str, Any], data: Mapping[str, str]) -> None:
        self.path = path
        asked = json.loads(json.dumps({"command": command, "settings": settings, "data": data}))
        known = read(path) if path.exists() else {**asked, "runs": {}}
        for name in ("settings", "data"):
            if known[name] != asked[name]:
                raise ValueError(
                    f"expected {path} to be of {name} {asked[name]}, got {known[name]}; write to another folder, or "
                    "take the file away"
                )
        self.results: Results = {**known, **asked}

    def run(self, key: str, measure: Callable[[], Results]) -> Results:
        """What a run measured: read if the file holds it, else measured and written with its circumstances."""
        runs = self.results["runs"]
        if key not in runs:
            began = time.monotonic()
            measured = measure()
            runs[key] = {**circumstances(), "seconds": round(time.monotonic() - began, 1), "measured": measured}
            write(self.path, self.results)
        measured = runs[key]["measured"]
        return dict(measured)


def circumstances() -> dict[str, Any]:
    """When, on what and with which versions something is measured."""
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} of {os.cpu_count()} processors",
        "versions": {"suffice": suffice.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def write(path: Path, results: Results) -> None:
    """Write results as JSON: the old file or the new one is there, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".part")
    write_synced(beside, (json.dumps(results, indent=1) + "\n").encode())
    os.replace(beside, path)


def read(path: Path) -> Results:
    """Results as they were written.

    Raises:
        ValueError: if the file is no such thing.
    """
    try:
        results: Results = json.loads(path.read_text())
        if not {"command", "settings", "data", "runs"} <= results.keys():
            raise ValueError(f"its keys are {sorted(results)}")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"expected results written by `suffice reproduce`, got {path}: {error}") from error
    return results


def measured(results: Results) -> dict[str, Results]:
    """What each run measured, by its key."""
    return {key: run["measured"] for key, run in results["runs"].items()}
