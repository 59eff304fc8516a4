"""The second half of every job, in a process of its own: load what the first half has saved, and answer the same bytes.

    python -m tests.gauntlet.reload FOLDER

reads the jobs to check from FOLDER/jobs.json, and writes their outcomes to FOLDER/outcomes.json.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

import suffice
from tests.gauntlet.families import BY_NAME
from tests.gauntlet.family import Family
from tests.gauntlet.outcomes import Job, Outcome, WrongAnswerError
from tests.gauntlet.pipeline import Data, attach, estimator_answers, exits_answers


def load_exits(family: Family, folder: Path) -> dict[str, Tensor]:
    """Build and attach again, load the new exits' weights and what was calibrated, and return its answers."""
    model = family.model()
    data = Data.of(family, model)
    network = attach(family, model, data).eval()
    network.exits[:-1].load_state_dict(torch.load(folder / "exits.pt"))
    calibrated = suffice.load(folder / "calibrated", network=network)
    return exits_answers(family, calibrated, suffice.load(folder / "policy"), data)


def load_estimator(family: Family, folder: Path) -> dict[str, Tensor]:
    """Build the model again, load its estimator, and return its answers."""
    model = family.model()
    estimator = suffice.load(folder / "estimator", network=model)
    return estimator_answers(family, estimator, Data.of(family, model))


LOAD: dict[str, Callable[[Family, Path], dict[str, Tensor]]] = {
    "exits": load_exits,
    "estimator": load_estimator,
    "named layers": load_estimator,
}


def reload(family: Family, name: str, folder: Path) -> Outcome:
    """Load one job's artifacts, and compare the answers with those before saving."""
    with Job().running() as job, job.step("load in another process"):
        answers, expected = LOAD[name](family, folder), torch.load(folder / "answers.pt")
        for key, value in expected.items():
            if not torch.equal(answers[key], value):
                raise WrongAnswerError(f"expected the same {key!r} after loading, got {answers[key]}, not {value}")
    return job.outcome


def main(folder: Path) -> None:
    """Check all jobs in a folder."""
    jobs = json.loads((folder / "jobs.json").read_text())
    outcomes = [reload(BY_NAME[name], job, Path(saved)) for name, job, saved in jobs]
    (folder / "outcomes.json").write_text(json.dumps([asdict(outcome) for outcome in outcomes]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
