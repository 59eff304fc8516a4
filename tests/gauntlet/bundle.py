"""The job "bundle": attach → calibrate → allocate → export, and the answers of the runtime beside those of the network.

The runtime answers texts of every length, with padding and without, and single examples. Probabilities are compared to
1e-4, the tolerance of `suffice.deploy.parity`, and exits wherever the score is not within it of the threshold.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import suffice
from suffice.deploy import parity
from tests.gauntlet.family import Family
from tests.gauntlet.outcomes import Job, WrongAnswerError
from tests.gauntlet.pipeline import Data, attach, bit_for_bit_batches

TOLERANCE = 1e-4


def run_bundle(family: Family, folder: Path, job: Job) -> None:
    """Run the job; predictions of a bundle are those of the network up to rounding."""
    from suffice_runtime import Runner

    model = family.model()
    data, job.rounded = Data.of(family, model), True
    with job.step("attach"):
        network = attach(family, model, data).eval()
        for exit_ in network.exits[:-1]:
            torch.nn.init.normal_(exit_.classifier.weight)
    with job.step("calibrate"):
        calibrated = suffice.calibrate(network, None, data.validation, structure=None)
    with job.step("allocate"):
        first, *_, last = calibrated.costs.cumulative
        mixed = suffice.allocate(calibrated, data.validation, budget=(first + last) / 2, unit="macs")
        policy = replace(mixed, alternative=None, portion=0.0)
    with job.step("export"):
        suffice.export(calibrated, folder / "bundle", policy=policy, example=family.inputs.batch(data.tested))
    runner = Runner(folder / "bundle")
    for what, x in bit_for_bit_batches(family, data.tested).items():
        with job.check("run"):
            _check_same(calibrated, policy, runner, x, what)


def _check_same(calibrated: Any, policy: Any, runner: Any, x: Any, what: str) -> None:
    """Raise a WrongAnswerError unless a bundle answers a batch as its network does."""
    arrays = parity.arrays(x)
    wanted, found = calibrated(x), runner.predict(arrays)
    for k, (ours, theirs) in enumerate(zip(wanted, found, strict=True)):
        difference = float(np.abs(ours.probs.numpy() - theirs.probs).max())
        if not difference <= TOLERANCE:
            raise WrongAnswerError(f"expected the bundle's exit {k}, for {what}, got a difference of {difference:.1e}")
    ours, theirs = suffice.run(calibrated, policy, x), runner.run(arrays)
    clear = ((ours.scores - policy.thresholds).abs() > TOLERANCE).all(dim=1).numpy()
    if (ours.exit.numpy() != theirs.exit)[clear].any():
        raise WrongAnswerError(f"expected exits {ours.exit.tolist()}, for {what}, got {theirs.exit.tolist()}")
