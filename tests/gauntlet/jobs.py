"""The jobs that every family runs."""

from functools import partial
from pathlib import Path

from tests.gauntlet.bundle import run_bundle
from tests.gauntlet.family import Family
from tests.gauntlet.outcomes import Job, Outcome
from tests.gauntlet.pipeline import run_estimator, run_exits

RELOADED = ("exits", "estimator", "named layers")
"""Jobs whose artifacts another process loads."""

JOBS = (*RELOADED, "bundle")

_RUN = {
    "exits": run_exits,
    "estimator": run_estimator,
    "named layers": partial(run_estimator, named=True),
    "bundle": run_bundle,
}


def attempt(family: Family, name: str, folder: Path) -> Outcome:
    """Run one job of a family in a folder of its own, up to loading."""
    folder.mkdir(parents=True, exist_ok=True)
    with Job().running() as job:
        _RUN[name](family, folder, job)
    return job.outcome
