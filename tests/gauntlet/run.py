"""Running families whole: both halves of every job, the second ones of all families in one other process."""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.gauntlet.family import Family
from tests.gauntlet.independence import Independence
from tests.gauntlet.jobs import JOBS, attempt
from tests.gauntlet.outcomes import Outcome
from tests.gauntlet.pipeline import Data

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Result:
    """Outcomes of one family.

    Attributes:
        family: Family.
        jobs: Outcome of each job.
        sensitive: What changes the model's own answers: kinds of padding.
    """

    family: Family
    jobs: dict[str, Outcome]
    sensitive: tuple[str, ...]

    @property
    def faults(self) -> list[str]:
        """Descriptions of all that is wrong."""
        return [
            f"{self.family.name}, {job}, {outcome.step}:\n{outcome.text}"
            for job, outcome in self.jobs.items()
            if outcome.result == "fault"
        ]


def run(families: Sequence[Family], folder: Path) -> list[Result]:
    """Run all jobs of some families in a folder."""
    with warnings.catch_warnings():  # those of third parties
        warnings.simplefilter("ignore")
        return _run(families, folder)


def _run(families: Sequence[Family], folder: Path) -> list[Result]:
    outcomes = {}
    for number, family in enumerate(families):
        for job in JOBS:
            outcomes[number, job] = attempt(family, job, folder / str(number) / job)
    _reload(families, folder, outcomes)
    return [
        Result(family, {job: outcomes[number, job] for job in JOBS}, _sensitive(family))
        for number, family in enumerate(families)
    ]


def _reload(families: Sequence[Family], folder: Path, outcomes: dict[tuple[int, str], Outcome]) -> None:
    """Replace the outcomes of jobs that were saved by those of loading them in another process."""
    saved = [key for key, outcome in outcomes.items() if outcome.result in ("bit for bit", "up to rounding")]
    jobs = [(families[number].name, job, str(folder / str(number) / job)) for number, job in saved]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums are split by threads
    command = [sys.executable, "-m", "tests.gauntlet.reload", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, env=environment)
    loaded = json.loads((folder / "outcomes.json").read_text())
    failed = {key: Outcome(**outcome) for key, outcome in zip(saved, loaded, strict=True)}
    outcomes.update({key: outcome for key, outcome in failed.items() if outcome.result != "bit for bit"})


def _sensitive(family: Family) -> tuple[str, ...]:
    model = family.model()
    return Independence(family, model, Data.of(family, model).tested).sensitive()
