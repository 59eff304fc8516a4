"""The jobs that every family runs, those of the two pages."""

from functools import partial
from pathlib import Path

from tests.gauntlet.bundle import run_bundle
from tests.gauntlet.family import Family
from tests.gauntlet.outcomes import Job, Outcome
from tests.gauntlet.pipeline import run_estimator, run_exits

JOBS = ("exits", "estimator", "named layers")
"""Jobs in PyTorch, whose artifacts another process loads."""

BUNDLE = "bundle"
"""Job whose artifact the runtime runs, on a page of its own."""

_RUN = {
    "exits": run_exits,
    "estimator": run_estimator,
    "named layers": partial(run_estimator, named=True),
    BUNDLE: run_bundle,
}


def attempt(family: Family, name: str, folder: Path) -> Outcome:
    """Run one job of a family in a folder of its own, up to loading."""
    folder.mkdir(parents=True, exist_ok=True)
    with Job().running() as job:
        _RUN[name](family, folder, job)
    return job.outcome
